"""Rewards that compare two texts, each put together of columns and of the answer: what OpenAI calls
string_check and text_similarity."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError
from rapidfuzz import fuzz

from engine.rewards.base import Answer, Reward
from engine.rewards.similarity import CHARACTERS, WORDS
from engine.rewards.templates import columns_of, template_fill, template_problem
from engine.rewards.words import words
from engine.schema.fields import parameter

PLACES_HELP = "{{item.column}} is a column of the row, {{sample.output_text}} the answer."


class Comparison(Reward):
    """Two texts with places, see engine.rewards.templates."""

    input: str = parameter(
        "{{sample.output_text}}",
        "Text",
        f"What is looked at. {PLACES_HELP}",
        group="Method",
        min_length=1,
        max_length=20_000,
    )
    reference: str = parameter(
        "{{item.reference}}",
        "Compared with",
        f"What it is held against. {PLACES_HELP}",
        group="Method",
        min_length=1,
        max_length=20_000,
    )

    @field_validator("input", "reference")
    @classmethod
    def check_template(cls, template: str) -> str:
        if message := template_problem(template):
            raise PydanticCustomError("rule", "{message}", {"message": message})

        return template

    def columns(self) -> set[str]:
        return columns_of(self.input) | columns_of(self.reference)

    def texts(self, answer: Answer) -> tuple[str, str]:
        """(the text, what it is compared with). Raises Unscored."""
        return template_fill(self.input, answer), template_fill(self.reference, answer)


class StringCheck(Comparison):
    """1 where a comparison of two texts holds, 0 where not; nothing is normalised."""

    slug: ClassVar[str] = "string_check"
    title: ClassVar[str] = "Text check"
    help: ClassVar[str] = "1 where the answer is, or holds, what a column says; 0 where not."

    operation: Literal["eq", "ne", "like", "ilike"] = parameter(
        "eq",
        "Check",
        "Upper and lower case count, but for the last.",
        group="Method",
        choice_titles={
            "eq": "Is the same",
            "ne": "Is not the same",
            "like": "Holds it",
            "ilike": "Holds it, in any case",
        },
    )

    def score(self, answer: Answer) -> float:
        text, reference = self.texts(answer)
        match self.operation:
            case "eq":
                return float(text == reference)
            case "ne":
                return float(text != reference)
            case "like":
                return float(reference in text)
            case _:
                return float(reference.casefold() in text.casefold())


class TextSimilarity(Comparison):
    """Fuzzy match by rapidfuzz, BLEU by sacrebleu, ROUGE (F-measure) by rouge-score, each from 0 to 1."""

    slug: ClassVar[str] = "text_similarity"
    title: ClassVar[str] = "Text similarity"
    help: ClassVar[str] = "How much the answer is like what a column says."

    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
    ] = parameter(
        "fuzzy_match",
        "Measure",
        "Fuzzy match compares characters; BLEU and ROUGE compare words.",
        group="Method",
        choice_titles={
            "fuzzy_match": "Fuzzy match",
            "bleu": "BLEU",
            **{f"rouge_{size}": f"ROUGE-{size}" for size in range(1, 6)},
            "rouge_l": "ROUGE-L",
        },
    )

    def score(self, answer: Answer) -> float:
        text, reference = self.texts(answer)
        match self.evaluation_metric:
            case "fuzzy_match":
                return float(fuzz.ratio(text[:CHARACTERS], reference[:CHARACTERS])) / 100
            case "bleu":
                score = _bleu().sentence_score(text[:CHARACTERS], [reference[:CHARACTERS]]).score
                return min(1.0, float(score) / 100)
            case metric:
                name = f"rouge{metric.removeprefix('rouge_').upper()}"
                return float(_rouge(name).score(reference, text)[name].fmeasure)


class _Words:
    """rouge-score's own tokenizer drops every script but the Latin one."""

    def tokenize(self, text: str) -> list[str]:
        return words(text.casefold())[:WORDS]


@cache
def _rouge(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], tokenizer=_Words())


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)
