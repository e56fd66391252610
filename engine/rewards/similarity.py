"""Rewards for being close to the reference: ROUGE-L and chrF, by the libraries that papers use."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from engine.rewards.base import Answer, Reward, reference_of
from engine.rewards.words import words
from engine.schema.fields import parameter

CHARACTERS = 20_000
# Time and memory of the longest common subsequence grow with the product of both lengths.
WORDS = 1_000


class RougeL(Reward):
    """F-measure of the longest common subsequence of words (Lin 2004), by the library rouge-score.
    Of long texts the first 1,000 words count."""

    slug: ClassVar[str] = "rouge_l"
    title: ClassVar[str] = "ROUGE-L"
    help: ClassVar[str] = "How many of the reference's words the answer has, in the same order."
    needs_reference: ClassVar[bool] = True

    def score(self, answer: Answer) -> float:
        return float(_rouge().score(reference_of(answer), answer.text)["rougeL"].fmeasure)


class _Words:
    """rouge-score's own tokenizer drops every script but the Latin one."""

    def tokenize(self, text: str) -> list[str]:
        return words(text.casefold())[:WORDS]


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


class ChrF(Reward):
    """F-score of character sequences (Popović 2015), by the library sacrebleu, divided by 100."""

    slug: ClassVar[str] = "chrf"
    title: ClassVar[str] = "chrF"
    help: ClassVar[str] = (
        "How many short sequences of characters the answer shares with the reference."
    )
    needs_reference: ClassVar[bool] = True

    word_order: int = parameter(
        0, "Word order", "2 counts pairs of words too (chrF++).", group="Method", ge=0, le=2
    )

    def score(self, answer: Answer) -> float:
        text = answer.text[:CHARACTERS]
        reference = reference_of(answer)[:CHARACTERS]
        result = _chrf(self.word_order).sentence_score(text, [reference])
        return min(1.0, float(result.score) / 100)


@cache
def _chrf(word_order: int) -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=word_order)
