"""Rewards for the right answer: the same words, or the same number."""

from __future__ import annotations

import re
import string
from decimal import Decimal, DivisionByZero, InvalidOperation
from typing import ClassVar

from engine.parameters import parameter
from engine.rewards.base import Answer, Reward, Unscored, inside, reference_of

TAG = r"^[A-Za-z][A-Za-z0-9_-]{0,40}$|^$"


class ExactAnswer(Reward):
    """1 for the reference's words, 0 for others. Normalised as SQuAD does it (arxiv.org/abs/1606.05250)."""

    slug: ClassVar[str] = "exact_answer"
    title: ClassVar[str] = "Exact answer"
    help: ClassVar[str] = "1 where the answer is the reference, 0 where it is not."
    needs_reference: ClassVar[bool] = True

    answer_tag: str = parameter(
        "", "Answer tag", "Compare only what stands inside this tag, such as answer. Blank: the whole text.",
        group="Method", pattern=TAG,
    )  # fmt: skip
    ignore_case: bool = parameter(True, "Ignore case", "Paris and paris are the same.", group="Method")
    ignore_punctuation: bool = parameter(
        True, "Ignore punctuation", "Full stops, commas and quotes do not count.", group="Method"
    )
    ignore_articles: bool = parameter(False, "Ignore articles", "a, an and the do not count.", group="Method")

    def score(self, answer: Answer) -> float:
        found = inside(answer.text, self.answer_tag)
        return float(found is not None and self._plain(found) == self._plain(reference_of(answer)))

    def _plain(self, text: str) -> str:
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_punctuation:
            text = "".join(letter for letter in text if letter not in string.punctuation + "。，！？、“”‘’«»…")
        if self.ignore_articles:
            text = re.sub(r"\b(a|an|the)\b", " ", text)
        return " ".join(text.split())


# 1,234.5 or 1234.5 or .5, with a sign and perhaps an exponent, perhaps as the upper half of a fraction.
DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(rf"[-+]?\s?[$€£¥]?\s?(?:{DIGITS})(?:[eE][-+]?\d{{1,3}})?(?:\s?/\s?[-+]?(?:{DIGITS}))?\s?%?")
MARKED = re.compile(r"####\s*(.{1,200})")
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\}){1,200})\}")
FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")


def number_read(text: str) -> Decimal | None:
    """The number a text comes to: behind ####, in \\boxed{}, else the last. 1,234, -3/4, 5% and 1e3 are numbers too."""
    text = text.replace("−", "-").replace("–", "-").replace("\u00a0", " ").replace("\\%", "%").replace("\\$", "$")
    text = FRACTION.sub(r"\1/\2", text)
    for marker in (MARKED, BOXED):
        for place in reversed(list(marker.finditer(text))):
            if (number := _last_number(place.group(1))) is not None:
                return number
    return _last_number(text)


def _last_number(text: str) -> Decimal | None:
    numbers = list(NUMBER.finditer(text))
    return _value(text, numbers[-1]) if numbers else None


def _value(text: str, found: re.Match[str]) -> Decimal | None:
    written = found.group(0)
    start = found.start()
    # In "10-3" and "step-5" the stroke is no sign.
    if written[:1] in "+-" and start and (text[start - 1].isalnum() or text[start - 1] == ")"):
        written = written[1:]
    plain = re.sub(r"[\s,$€£¥%]", "", written)
    try:
        upper, _, lower = plain.partition("/")
        value = Decimal(upper) / Decimal(lower) if lower else Decimal(upper)
    except (InvalidOperation, DivisionByZero, ArithmeticError):
        return None
    return value / 100 if "%" in written else value


class NumericAnswer(Reward):
    """1 for the reference's number. Reads `#### 72`, `\\boxed{72}`, else the last number of the text."""

    slug: ClassVar[str] = "numeric_answer"
    title: ClassVar[str] = "Numeric answer"
    help: ClassVar[str] = "1 where the answer comes to the same number as the reference."
    needs_reference: ClassVar[bool] = True

    answer_tag: str = parameter(
        "", "Answer tag", "Read only what stands inside this tag, such as answer. Blank: the whole text.",
        group="Method", pattern=TAG,
    )  # fmt: skip
    tolerance: float = parameter(
        1e-6, "Tolerance", "Numbers that differ by no more than this share of the reference are the same.",
        group="Method", ge=0, le=1,
    )  # fmt: skip
    readable_score: float = parameter(
        0.0, "For a wrong number", "What an answer is worth that comes to a number, but to another one.",
        group="Method", ge=0, le=1,
    )  # fmt: skip

    def score(self, answer: Answer) -> float:
        wanted = number_read(reference_of(answer))
        if wanted is None:
            raise Unscored("The reference answer holds no number.")
        found = inside(answer.text, self.answer_tag)
        number = number_read(found) if found is not None else None
        if number is None:
            return 0.0
        allowed = Decimal(str(self.tolerance)) * max(abs(wanted), Decimal(1))
        return 1.0 if abs(number - wanted) <= allowed else self.readable_score
