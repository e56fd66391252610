"""Feedback as rows of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from django.db.models import QuerySet

from core.text import counted
from playground.models import Feedback, FeedbackDataset

Form = FeedbackDataset.Form
Kind = Feedback.Kind
Verdict = Feedback.Verdict

# The method that each form is made for, of which its page offers the form.
METHODS = {Form.PREFERENCE: "dpo", Form.KTO: "kto", Form.SFT: "lora"}
MADE_OF = {
    Form.PREFERENCE: "Votes for one of two answers, and corrected answers beside the first ones.",
    Form.KTO: "Thumbs up and down.",
    Form.SFT: "Corrected answers, and answers with a thumb up.",
}


class Rows:
    """Makes rows of a form of one judgement after the other, and keeps none of them: each has a whole
    conversation.

    feedback: of which `take` is given every one. count: of the rows so far. left_out: what is none,
    in the singular, with how many. models: of each that gave the better answers, how many."""

    def __init__(self, form: str, feedback: QuerySet[Feedback]) -> None:
        makers = {Form.PREFERENCE: _pair, Form.KTO: _rated, Form.SFT: _example}
        self.maker = makers[Form(form)]
        corrections = feedback.filter(kind=Kind.CORRECTION, turn__isnull=False)
        self.corrected = set(corrections.values_list("turn_id", "place"))
        self.seen: set[bytes] = set()
        self.count = 0
        self.left_out: Counter[str] = Counter()
        self.models: Counter[str] = Counter()

    def take(self, item: Feedback) -> Iterator[dict[str, Any]]:
        """The rows of a judgement as the format has them, without those that were there before."""
        for row in self.maker(item, self.corrected, self.left_out):
            mark = blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if mark in self.seen:
                self.left_out["judgement that was given twice"] += 1
                continue

            self.seen.add(mark)
            self.count += 1
            self.models[item.chosen_target] += 1
            yield row

    @property
    def left_out_texts(self) -> list[str]:
        """ "3 votes for neither", and so on."""
        texts = []
        for reason, count in self.left_out.items():
            noun, _, rest = reason.partition(" ")
            texts.append(f"{counted(count, noun)} {rest}")

        return texts


def judgements(feedback: QuerySet[Feedback]) -> Iterator[Feedback]:
    """The oldest first, a few in memory at a time."""
    return feedback.order_by("pk").iterator(chunk_size=100)


def rows_of(form: str, feedback: QuerySet[Feedback]) -> tuple[Rows, Iterator[dict[str, Any]]]:
    """The rows of a form, each once, as they are asked for, with what counts them."""
    made = Rows(form, feedback)
    return made, (row for item in judgements(feedback) for row in made.take(item))


def _pair(item: Feedback, corrected: set[Any], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    if item.kind == Kind.VOTE and item.verdict != Verdict.BETTER:
        left_out["vote for neither"] += 1
    elif item.kind == Kind.VOTE and not item.same_prompt:
        left_out["vote between answers to different conversations"] += 1
    elif item.kind in (Kind.VOTE, Kind.CORRECTION):
        pair = {
            "prompt": item.prompt,
            "chosen": [_answer(item.chosen)],
            "rejected": [_answer(item.rejected)],
        }
        if item.chosen.strip() == item.rejected.strip():
            left_out["vote between equal answers"] += 1
        else:
            yield _with_tools(pair, item)


def _rated(item: Feedback, corrected: set[Any], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    if item.kind == Kind.THUMB:
        is_good = item.verdict == Verdict.UP
        row = {"prompt": item.prompt, "completion": [_answer(item.chosen)], "label": is_good}
        yield _with_tools(row, item)


def _example(
    item: Feedback, corrected: set[Any], left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    is_good = item.kind == Kind.CORRECTION or item.verdict == Verdict.UP
    if not is_good:
        return

    if item.kind == Kind.THUMB and (item.turn_id, item.place) in corrected:
        left_out["thumb on an answer that is corrected"] += 1
        return

    yield _with_tools({"messages": [*item.prompt, _answer(item.chosen)]}, item)


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _with_tools(row: dict[str, Any], item: Feedback) -> dict[str, Any]:
    return row | {"tools": item.tools} if item.tools else row
