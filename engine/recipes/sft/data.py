"""Examples as token ids and labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy
import pyarrow  # type: ignore[import-untyped]
from datasets import Dataset  # type: ignore[import-untyped]

from engine.data import asked, examples_read, split
from engine.examples import Example
from engine.job import Job
from engine.render import Renderer, Tokens
from engine.rundir import DataFile

IGNORED = -100
# The token that ends an answer is the same in all rows; so many are looked at.
TURN_END_ROWS = 16


@dataclass
class Rows:
    """Tokenised rows in file order. `left_out` lost their whole answer to the cut, `cut` only its end."""

    ids: list[numpy.ndarray] = field(default_factory=list)
    labels: list[numpy.ndarray] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    left_out: int = 0
    cut: int = 0
    turn_ends: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, example: Example, tokens: Tokens, max_tokens: int) -> None:
        kept = tokens.learned[:max_tokens]
        # The first token is predicted from nothing, so it is no answer to learn.
        if not any(kept[1:]):
            self.left_out += 1
            return
        self.cut += len(tokens.ids) > max_tokens
        ids = numpy.asarray(tokens.ids[:max_tokens], dtype=numpy.int32)
        self.ids.append(ids)
        self.labels.append(numpy.where(numpy.asarray(kept), ids, IGNORED).astype(numpy.int32))
        self.examples.append(example)

    def by_length(self, indices: list[int]) -> Dataset:
        """For measuring, where the order is free: little padding in a batch."""
        return self.dataset(sorted(indices, key=lambda index: len(self.ids[index])))

    def dataset(self, indices: list[int]) -> Dataset:
        return Dataset(
            pyarrow.table(
                {
                    "input_ids": pyarrow.array([self.ids[index] for index in indices], pyarrow.list_(pyarrow.int32())),
                    "labels": pyarrow.array([self.labels[index] for index in indices], pyarrow.list_(pyarrow.int32())),
                }
            )
        )


@dataclass(frozen=True)
class Prepared:
    """`sample_examples`: what the model is asked before and after; of the training data where nothing is held out."""

    train: Dataset
    evaluation: Dataset | None
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
    return Prepared(
        train=rows.dataset(found.kept),
        evaluation=(other or rows).by_length(found.held_out) if found.held_out else None,
        train_rows=len(found.kept),
        eval_rows=len(found.held_out),
        left_out_rows=rows.left_out,
        cut_rows=rows.cut,
        sample_examples=asked(job, found, rows.examples, other.examples if other is not None else None),
        turn_ends=rows.turn_ends,
    )


def _read(job: Job, data: DataFile, renderer: Renderer, max_tokens: int, limit: int | None = None) -> Rows:
    rows = Rows()
    for number, example in enumerate(examples_read(job, data)):
        tokens = renderer.tokens(example)
        if number < TURN_END_ROWS and (end := renderer.turn_end_id(tokens)) is not None:
            rows.turn_ends.add(end)
        rows.add(example, tokens, max_tokens)
        if limit is not None and len(rows) >= limit:
            break
    return rows
