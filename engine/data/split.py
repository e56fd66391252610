"""The rows of a dataset, read and split: which are trained on, which are held out, and which are
the sample prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.chat.lengths import GoodRow, good_rows
from engine.chat.row_notes import RowNotes
from engine.contract.arithmetic import HOLDOUT_LIMIT, holdout_draw, holdout_rows
from engine.contract.rundir import DataFile, file_sha256, held_out_write
from engine.messages.failures import TrainError
from engine.rows.examples import Example
from engine.run.job import Job

STOP_CHECK_ROWS = 256


def file_check(data: DataFile) -> None:
    """Raises TrainError where the file is gone or is not the one that was chosen."""
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


def rows_read(job: Job, data: DataFile) -> Iterator[GoodRow]:
    """The valid rows in file order. Raises TrainError as file_check does, and Stopped where a stop is
    asked for meanwhile."""
    file_check(data)
    rows = good_rows(Path(data.path), data.file_type, data.format, data.column_map)

    for index, row in enumerate(rows):
        if index % STOP_CHECK_ROWS == 0:
            job.stop_check()

        yield row


def notes_warn(job: Job, training: RowNotes, evaluation: RowNotes | None) -> None:
    """Warn of what the chat template does to the rows."""
    for code, text in training.messages():
        job.warn(code, text)

    if evaluation is None:
        return

    for code, text in evaluation.messages():
        job.warn(f"{code}:evaluation", f"Evaluation dataset: {text}")


@dataclass(frozen=True)
class Split:
    """Indices of rows, those in `held_out` into the evaluation dataset where there is one, else into
    the training data."""

    kept: list[int]
    held_out: list[int]


def split(
    job: Job,
    numbers: Sequence[int],
    evaluation_rows: int | None,
    *,
    why_none: str = "",
    advice: str = "Raise the token limits, or choose another dataset.",
) -> Split:
    """`numbers`: of each row of the training data, its number in the file; `evaluation_rows`: how many
    rows the evaluation dataset has, None where there is none. Writes down which rows of the training
    data are held out. Raises TrainError, saying `why_none` and `advice`, where nothing is left to
    train on."""
    seed = job.parameters.seed
    rows = len(numbers)

    if evaluation_rows is None:
        size = holdout_rows(rows, job.parameters.evaluation_split)
        held_out = holdout_draw(rows, size, seed)
        kept = sorted(set(range(rows)) - set(held_out))
        if job.ranks.is_first:
            held_out_write(job.directory, _never_trained(numbers, kept, held_out))
    else:
        held_out = holdout_draw(evaluation_rows, min(HOLDOUT_LIMIT, evaluation_rows), seed)
        kept = list(range(rows))

    if not kept:
        raise TrainError("no_rows", f"No row is left to train on{why_none}.", advice)

    return Split(kept, held_out)


def _never_trained(numbers: Sequence[int], kept: list[int], held_out: list[int]) -> list[int]:
    """Numbers in the file of the rows held out. A pair that became two rated answers may be in both
    parts: then its prompt is trained on."""
    trained = {numbers[index] for index in kept}
    return sorted({numbers[index] for index in held_out} - trained)


def sample_examples(
    job: Job,
    parts: Split,
    training_row: Callable[[int], Example],
    held_out_row: Callable[[int], Example],
) -> list[Example]:
    """The rows that the model answers before and after the train: held-out rows, or rows that it is
    trained on where nothing is held out."""
    count = job.parameters.sample_prompts
    if parts.held_out or not count:
        return [held_out_row(index) for index in parts.held_out[:count]]

    job.warn(
        "samples_of_training_rows",
        "No rows are held out: the sample prompts are rows that are trained on.",
    )
    return [training_row(index) for index in parts.kept[:count]]
