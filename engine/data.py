"""The dataset as the trainer takes it: token ids and labels, held-out rows apart."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import pyarrow  # type: ignore[import-untyped]
from datasets import Dataset  # type: ignore[import-untyped]

from engine.failures import TrainError
from engine.formats import Example
from engine.job import Job
from engine.lengths import examples
from engine.plan import HOLDOUT_LIMIT, holdout_rows
from engine.render import Renderer, Tokens
from engine.rundir import DataFile, file_sha256
from engine.trainer import IGNORED

STOP_CHECK_ROWS = 256


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
    given = job.parameters
    rows = _read(job, job.spec.dataset, renderer, max_tokens, limit=given.max_samples)
    if job.spec.evaluation_dataset is not None:
        other = _read(job, job.spec.evaluation_dataset, renderer, max_tokens)
        held_out = sorted(_drawn(len(other), min(HOLDOUT_LIMIT, len(other)), given.seed))
        kept = list(range(len(rows)))
        evaluation, asked = other.by_length(held_out), [other.examples[index] for index in held_out]
    else:
        held_out = sorted(_drawn(len(rows), holdout_rows(len(rows), given.evaluation_split), given.seed))
        kept = sorted(set(range(len(rows))) - set(held_out))
        evaluation, asked = rows.by_length(held_out), [rows.examples[index] for index in held_out]
    if not kept:
        raise TrainError(
            "no_rows",
            f"No row is left to train on: {rows.left_out:,} lose their whole answer at {max_tokens:,} tokens.",
            "Raise max tokens, or choose another dataset.",
        )
    if not asked and given.sample_prompts:
        job.warn("samples_of_training_rows", "Nothing is held out: the sample prompts are rows that are trained on.")
        asked = [rows.examples[index] for index in kept]
    return Prepared(
        train=rows.dataset(kept),
        evaluation=evaluation if held_out else None,
        train_rows=len(kept),
        eval_rows=len(held_out),
        left_out_rows=rows.left_out,
        cut_rows=rows.cut,
        sample_examples=asked[: given.sample_prompts],
        turn_ends=rows.turn_ends,
    )


def _drawn(count: int, size: int, seed: int) -> list[int]:
    """The same rows for the same seed, whatever else is drawn at random."""
    return random.Random(seed).sample(range(count), size)  # noqa: S311 - a draw, no secret


def _read(job: Job, data: DataFile, renderer: Renderer, max_tokens: int, limit: int | None = None) -> Rows:
    path = Path(data.path)
    if not path.is_file():
        raise TrainError("data_gone", "The dataset's file is gone.", "Upload it again, or choose another dataset.")
    if file_sha256(path) != data.sha256:
        raise TrainError(
            "data_changed",
            "The dataset's file has changed since the train was started.",
            "Upload the file as a new dataset, so that results can be traced to their data.",
        )
    rows = Rows()
    for number, example in enumerate(_stoppable(job, examples(path, data.file_type, data.format, data.column_map))):
        tokens = renderer.tokens(example)
        if number < 16 and (end := renderer.turn_end_id(tokens)) is not None:
            rows.turn_ends.add(end)
        rows.add(example, tokens, max_tokens)
        if limit is not None and len(rows) >= limit:
            break
    return rows


def _stoppable(job: Job, rows: Iterator[Example]) -> Iterator[Example]:
    for number, example in enumerate(rows):
        if number % STOP_CHECK_ROWS == 0:
            job.stop_check()
        yield example
