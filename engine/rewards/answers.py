"""Rewards for the correct answer: the same words, or the same number."""

from __future__ import annotations

import re
import string
from decimal import Decimal, DivisionByZero, InvalidOperation
from typing import ClassVar, NamedTuple

from engine.rewards.base import Answer, Reward, Unscored, reference_of, tag_content
from engine.schema.fields import parameter

TAG = r"^[A-Za-z][A-Za-z0-9_-]{0,40}$|^$"


NO_PUNCTUATION = str.maketrans("", "", string.punctuation + "。，！？、“”‘’«»…")


class ExactAnswer(Reward):
    """1 for the reference's words, 0 for others. Normalised as SQuAD does it
    (arxiv.org/abs/1606.05250)."""

    slug: ClassVar[str] = "exact_answer"
    title: ClassVar[str] = "Exact answer"
    help: ClassVar[str] = "1 where the answer is the reference, 0 where it is not."
    needs_reference: ClassVar[bool] = True

    answer_tag: str = parameter(
        "",
        "Answer tag",
        "Compare only what stands inside this tag, such as answer. Blank: the whole text.",
        group="Method",
        pattern=TAG,
    )
    ignore_case: bool = parameter(
        True, "Ignore case", "Paris and paris are the same.", group="Method"
    )
    ignore_punctuation: bool = parameter(
        True, "Ignore punctuation", "Full stops, commas and quotes do not count.", group="Method"
    )
    ignore_articles: bool = parameter(
        False, "Ignore articles", "a, an and the do not count.", group="Method"
    )

    def score(self, answer: Answer) -> float:
        given = tag_content(answer.text, self.answer_tag)
        wanted = reference_of(answer)

        if given is None:
            return 0.0

        if not self._normalised(wanted):
            # A reference of punctuation alone, such as "!=", is compared as it is.
            return float(given.strip() == wanted.strip())

        return float(self._normalised(given) == self._normalised(wanted))

    def _normalised(self, text: str) -> str:
        if self.ignore_case:
            text = text.casefold()

        if self.ignore_punctuation:
            text = text.translate(NO_PUNCTUATION)

        if self.ignore_articles:
            text = re.sub(r"\b(a|an|the)\b", " ", text)

        return " ".join(text.split())


# 1,234.5 or 1234.5 or .5, with a sign and perhaps an exponent, perhaps as the upper half of a
# fraction.
DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
WRITTEN = (
    rf"[-+]?(?:[$€£¥]\s?)?(?:{DIGITS})(?:[eE][-+]?\d{{1,3}})?(?:\s?/\s?[-+]?(?:{DIGITS}))?(?:\s?%)?"
)
NUMBER = re.compile(WRITTEN)
# Markdown's headings begin alike, so that the number must follow at once.
MARKED = re.compile(rf"####[^\S\n]*({WRITTEN})")
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\}){1,200})\}")
FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
# 1{,}000 and 1\,000 in TeX, 1 000 with a space that does not break.
GROUPED = re.compile(r"(?<=\d)(?:\{,\}|\\,|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))")


# A minus sign and a dash, a space that does not break, and signs that TeX escapes.
SPELLINGS = {
    "−": "-",
    "–": "-",
    "\u00a0": " ",
    "\\%": "%",
    "\\$": "$",
}


class Number(NamedTuple):
    """`value`: 0.05 for 5%."""

    value: Decimal
    is_percentage: bool = False


def number_read(text: str) -> Number | None:
    """The number that a text comes to: after ####, in \\boxed{}, else the last one. 1,234, -3/4, 5%
    and 1e3 are numbers too."""
    text = GROUPED.sub("", text)
    for written, plain in SPELLINGS.items():
        text = text.replace(written, plain)

    text = FRACTION.sub(r"\1/\2", text)

    for marker in (MARKED, BOXED):
        for match in reversed(list(marker.finditer(text))):
            number = _last_number(match.group(1))
            if number is not None:
                return number

    return _last_number(text)


def _last_number(text: str) -> Number | None:
    matches = list(NUMBER.finditer(text))
    return _value(text, matches[-1]) if matches else None


def _value(text: str, match: re.Match[str]) -> Number | None:
    written = match.group(0)
    before = text[: match.start()][-1:]
    # In "10-3" and "step-5" the stroke is not a sign.
    if written[:1] in "+-" and (before.isalnum() or before == ")"):
        written = written[1:]

    plain = re.sub(r"[\s,$€£¥%]", "", written)
    try:
        upper, _, lower = plain.partition("/")
        value = Decimal(upper) / Decimal(lower) if lower else Decimal(upper)
    except (InvalidOperation, DivisionByZero, ArithmeticError):
        return None

    if "%" in written:
        return Number(value / 100, is_percentage=True)

    return Number(value)


class NumericAnswer(Reward):
    """1 for the reference's number. Reads `#### 72`, `\\boxed{72}`, else the last number of the
    text."""

    slug: ClassVar[str] = "numeric_answer"
    title: ClassVar[str] = "Numeric answer"
    help: ClassVar[str] = "1 where the answer comes to the same number as the reference."
    needs_reference: ClassVar[bool] = True

    answer_tag: str = parameter(
        "",
        "Answer tag",
        "Read only what stands inside this tag, such as answer. Blank: the whole text.",
        group="Method",
        pattern=TAG,
    )
    tolerance: float = parameter(
        1e-6,
        "Tolerance",
        "Numbers that differ by no more than this share of the reference are the same.",
        group="Method",
        ge=0,
        le=1,
    )
    readable_score: float = parameter(
        0.0,
        "For a wrong number",
        "What an answer is worth that comes to a number, but to another one.",
        group="Method",
        ge=0,
        le=1,
    )

    def score(self, answer: Answer) -> float:
        wanted = number_read(reference_of(answer))
        if wanted is None:
            raise Unscored("The reference answer holds no number.")

        given = tag_content(answer.text, self.answer_tag)
        number = number_read(given) if given is not None else None
        if number is None:
            return 0.0

        return 1.0 if self._is_same(number, wanted) else self.readable_score

    def _is_same(self, number: Number, wanted: Number) -> bool:
        allowed = Decimal(str(self.tolerance)) * max(abs(wanted.value), Decimal(1))
        values = [number.value]

        # Datasets write 50 where people say 50%.
        if number.is_percentage != wanted.is_percentage:
            values.append(number.value * 100 if number.is_percentage else number.value / 100)

        return any(abs(value - wanted.value) <= allowed for value in values)
