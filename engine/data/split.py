"""The rows of a dataset, read and split: which are trained on, which are held out, which are asked
before and after."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.chat.lengths import examples_by_line
from engine.chat.row_notes import RowNotes
from engine.contract.arithmetic import HOLDOUT_LIMIT, holdout_rows
from engine.contract.rundir import DataFile, file_sha256
from engine.messages.failures import TrainError
from engine.rows.examples import Example
from engine.run.job import Job

STOP_CHECK_ROWS = 256


def file_check(data: DataFile) -> None:
    """Raises TrainError where the file is gone or not the one that was chosen."""
    path = Path(data.path)
    if not path.is_file():
        raise TrainError(
            "data_gone",
            "The dataset's file is gone.",
            "Upload it again, or choose another dataset.",
        )

    if file_sha256(path) != data.sha256:
        raise TrainError(
            "data_changed",
            "The dataset's file has changed since the train was started.",
            "Upload the file as a new dataset, so that results can be traced to their data.",
        )


def examples_read(job: Job, data: DataFile) -> Iterator[tuple[int, Example]]:
    """(line, example) of the good rows in file order. Raises TrainError as file_check does, and
    Stopped where somebody asks for a stop meanwhile."""
    file_check(data)
    rows = examples_by_line(Path(data.path), data.file_type, data.format, data.column_map)

    for number, row in enumerate(rows):
        if number % STOP_CHECK_ROWS == 0:
            job.stop_check()

        yield row


def notes_warn(job: Job, training: RowNotes, evaluation: RowNotes | None) -> None:
    """Warn of what the chat template does to the rows."""
    for code, text in training.messages():
        job.warn(code, text)

    for code, text in evaluation.messages() if evaluation is not None else []:
        job.warn(f"{code}:evaluation", f"Evaluation dataset: {text}")


@dataclass(frozen=True)
class Split:
    """Indices of rows. `held_out` counts in the evaluation dataset where there is one, else in the
    training data."""

    kept: list[int]
    held_out: list[int]


def split(
    job: Job,
    rows: int,
    evaluation_rows: int | None,
    *,
    why_none: str = "",
    advice: str = "Raise the token limits, or choose another dataset.",
) -> Split:
    """`evaluation_rows`: of a dataset of its own to measure on. Raises TrainError, saying
    `why_none` and `advice`, where nothing is left to train on."""
    given = job.parameters

    if evaluation_rows is not None:
        found = Split(
            list(range(rows)),
            _drawn(evaluation_rows, min(HOLDOUT_LIMIT, evaluation_rows), given.seed),
        )
    else:
        held_out = _drawn(rows, holdout_rows(rows, given.evaluation_split), given.seed)
        found = Split(sorted(set(range(rows)) - set(held_out)), held_out)

    if not found.kept:
        raise TrainError("no_rows", f"No row is left to train on{why_none}.", advice)

    return found


def _drawn(count: int, size: int, seed: int) -> list[int]:
    """The same rows for the same seed, whatever else is drawn at random; in file order."""
    return sorted(random.Random(seed).sample(range(count), size))  # noqa: S311 - a draw, no secret


def asked(
    job: Job,
    found: Split,
    row: Callable[[int], Example],
    evaluation_row: Callable[[int], Example] | None,
) -> list[Example]:
    """What the model is asked before and after: held-out rows, or rows trained on where nothing is
    held out."""
    count = job.parameters.sample_prompts
    if found.held_out or not count:
        return [(evaluation_row or row)(index) for index in found.held_out[:count]]

    job.warn(
        "samples_of_training_rows",
        "Nothing is held out: the sample prompts are rows that are trained on.",
    )
    return [row(index) for index in found.kept[:count]]
