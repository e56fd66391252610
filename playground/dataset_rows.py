"""Feedback as rows of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class Rows:
    """rows: as the format has them. left_out: what is none, in the singular, with how many. models:
    of each that gave the better answers, how many."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)

    @property
    def left_out_texts(self) -> list[str]:
        """ "3 votes for neither", and so on."""
        texts = []
        for reason, count in self.left_out.items():
            noun, _, rest = reason.partition(" ")
            texts.append(f"{counted(count, noun)} {rest}")

        return texts


def rows_of(form: str, feedback: Iterable[Feedback]) -> Rows:
    """The rows of a form, each once; the oldest feedback first."""
    made = Rows()
    makers = {Form.PREFERENCE: _pair, Form.KTO: _rated, Form.SFT: _example}
    maker = makers[Form(form)]
    corrected = {
        (item.turn_id, item.place)
        for item in feedback
        if item.kind == Kind.CORRECTION and item.turn_id is not None
    }

    seen: set[str] = set()
    for item in sorted(feedback, key=lambda item: item.pk):
        for row in maker(item, corrected, made.left_out):
            if repr(row) in seen:
                made.left_out["judgement that was given twice"] += 1
                continue

            seen.add(repr(row))
            made.rows.append(row)
            made.models[item.chosen_target] += 1

    return made


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
