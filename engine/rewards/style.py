"""Rewards for style: length, language, no repetition."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from engine.rewards.base import Answer, Reward
from engine.rewards.words import words
from engine.schema.fields import parameter

# What py3langid tells apart; the languages that people ask for most.
LANGUAGES = {
    "en": "English",
    "zh": "Chinese",
    "es": "Spanish",
    "fr": "French",
    "de": "German",
    "it": "Italian",
    "pt": "Portuguese",
    "ru": "Russian",
    "ja": "Japanese",
    "ko": "Korean",
    "ar": "Arabic",
    "hi": "Hindi",
    "nl": "Dutch",
    "pl": "Polish",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "id": "Indonesian",
    "th": "Thai",
    "uk": "Ukrainian",
    "cs": "Czech",
    "sv": "Swedish",
    "el": "Greek",
    "he": "Hebrew",
    "fa": "Persian",
}


class LengthWindow(Reward):
    """1 inside the window; outside of it the score falls linearly, to 0 for an empty answer and at
    twice the upper end."""

    slug: ClassVar[str] = "length_window"
    title: ClassVar[str] = "Length"
    help: ClassVar[str] = (
        "1 for an answer of the wanted length, less the further it is away from it."
    )

    unit: Literal["words", "characters"] = parameter(
        "words",
        "Counted in",
        "Chinese and Japanese count each character as a word.",
        group="Method",
        choice_titles={"words": "Words", "characters": "Characters"},
    )
    shortest: int = parameter(
        1, "At least", "The shortest good answer.", group="Method", ge=0, le=1_000_000
    )
    longest: int = parameter(
        200, "At most", "The longest good answer.", group="Method", ge=1, le=1_000_000
    )

    @model_validator(mode="after")
    def check_window(self) -> Self:
        if self.shortest > self.longest:
            raise PydanticCustomError(
                "rule",
                "{message}",
                {"message": f"At least {self.shortest:,} is more than at most {self.longest:,}."},
            )

        return self

    def score(self, answer: Answer) -> float:
        length = self._length(answer.text)
        if length < self.shortest:
            return length / self.shortest
        if length <= self.longest:
            return 1.0

        return max(0.0, 2.0 - length / self.longest)

    def _length(self, text: str) -> int:
        return len(words(text)) if self.unit == "words" else len(text.strip())


class Language(Reward):
    """The likelihood that the answer is in the wanted language."""

    slug: ClassVar[str] = "language"
    title: ClassVar[str] = "Language"
    help: ClassVar[str] = (
        "How sure it is that the answer is in this language. Very short answers cannot be told."
    )

    language: Literal[tuple(LANGUAGES)] = parameter(  # type: ignore[valid-type]
        "en", "Language", "The language to answer in.", group="Method", choice_titles=LANGUAGES
    )

    def score(self, answer: Answer) -> float:
        if not any(letter.isalpha() for letter in answer.text):
            return 0.0

        likelihoods = dict(_identifier().rank(answer.text[:4000]))
        likelihood = likelihoods.get(self.language, 0.0)
        return float(min(1.0, max(0.0, likelihood)))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class NoRepetition(Reward):
    """1 minus the share of word sequences that occurred earlier in the answer."""

    slug: ClassVar[str] = "no_repetition"
    title: ClassVar[str] = "No repetition"
    help: ClassVar[str] = (
        "1 for an answer that never says the same again, 0 for one that does nothing else."
    )

    words_in_a_row: int = parameter(
        3,
        "Words in a row",
        "How long a sequence of words must be to count as said again.",
        group="Method",
        typical=(2, 6),
        ge=1,
        le=50,
    )

    def score(self, answer: Answer) -> float:
        text = words(answer.text.casefold())
        size = self.words_in_a_row
        count = len(text) - size + 1
        if count <= 0:
            return 1.0

        different = {tuple(text[start : start + size]) for start in range(count)}
        return len(different) / count
