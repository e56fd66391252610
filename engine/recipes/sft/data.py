"""Examples as token ids and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from engine.data import asked, examples_read, split
from engine.examples import Example
from engine.job import Job
from engine.render import Renderer, Tokens
from engine.rundir import DataFile
from engine.tokenised import Rows, Tokenised, tokenised

IGNORED = -100
# The token that ends an answer is the same in all rows; so many are looked at.
TURN_END_ROWS = 16


@dataclass(frozen=True)
class Prepared:
    """`sample_examples`: what the model is asked before and after; of the training data where nothing is held out."""

    train: Any
    evaluation: Any
    train_rows: int
    eval_rows: int
    left_out_rows: int
    cut_rows: int
    sample_examples: list[Example]
    turn_ends: set[int]


def prepare(job: Job, renderer: Renderer, max_tokens: int) -> Prepared:
    """Read, check, tokenise and split. Raises TrainError where nothing is left to train on."""
    rows = _read(job, job.spec.dataset, renderer, max_tokens, limit=job.parameters.max_samples)
    evaluation = job.spec.evaluation_dataset
    other = _read(job, evaluation, renderer, max_tokens) if evaluation is not None else None
    found = split(
        job,
        len(rows),
        len(other) if other is not None else None,
        why_none=f": {rows.left_out:,} lose their whole answer at {max_tokens:,} tokens",
    )
    measured = rows if other is None else other
    return Prepared(
        train=rows.dataset(found.kept),
        evaluation=measured.by_length(found.held_out) if found.held_out else None,
        train_rows=len(found.kept),
        eval_rows=len(found.held_out),
        left_out_rows=rows.left_out,
        cut_rows=rows.cut,
        sample_examples=asked(job, found, rows.example, other.example if other is not None else None),
        turn_ends=rows.turn_ends,
    )


def _read(job: Job, data: DataFile, renderer: Renderer, max_tokens: int, limit: int | None = None) -> Tokenised:
    def fill(rows: Rows) -> None:
        for number, example in enumerate(examples_read(job, data)):
            tokens = renderer.tokens(example)
            if number < TURN_END_ROWS and (end := renderer.turn_end_id(tokens)) is not None:
                rows.turn_ends.add(end)
            row_add(rows, example, tokens, max_tokens)
            if limit is not None and len(rows) >= limit:
                break

    return tokenised(job, data, renderer, fill, method="sft", max_tokens=max_tokens, limit=limit)


def row_add(rows: Rows, example: Example, tokens: Tokens, max_tokens: int) -> None:
    """A conversation or a text as input_ids and labels, cut at its end."""
    kept = tokens.learned[:max_tokens]
    # The first token is predicted from nothing, so it is no answer to learn.
    if not any(kept[1:]):
        rows.left_out += 1
        return
    rows.cut += len(tokens.ids) > max_tokens
    ids = numpy.asarray(tokens.ids[:max_tokens], dtype=numpy.int32)
    labels = numpy.where(numpy.asarray(kept), ids, IGNORED).astype(numpy.int32)
    rows.add(example, len(ids), input_ids=ids, labels=labels)
