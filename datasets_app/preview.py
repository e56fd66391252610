"""Rows of a checked dataset, a page at a time, without reading what lies before them.

A small file is read here. Any other is read by a program of the engine with bounded time and memory
(engine.rows.preview): a stranger's file must not hold a thread of the web server, nor its memory.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from itertools import islice
from typing import Any

from core.errors import UserError
from core.programs import ProgramProblem, program_run
from datasets_app.models import Dataset
from engine.rows.preview import TEXT_LIMIT, PreviewRow, preview_rows, rows_at, shorten
from engine.rows.read import FilePosition, FileProblem, Row, read_rows

__all__ = [
    "TEXT_LIMIT",
    "PreviewRow",
    "file_options",
    "mark_before_line",
    "mark_options",
    "nearest_mark",
    "row_seen",
    "rows_numbered",
    "rows_seen",
    "shorten",
]

# So much text is read in milliseconds, whatever is in it. Parquet may stand for any amount.
SMALL_BYTES = 4 << 20
SECONDS = 20
MEMORY_BYTES = 2 << 30
# Each takes a processor for a moment. Others wait this long, and are then asked to try again.
AT_ONCE = threading.BoundedSemaphore(3)
WAIT_SECONDS = 20
BUSY = "Too many rows are being read at the moment. Try again in a minute."
TOO_LONG = f"These rows could not be read within {SECONDS} s. Download the file to look at them."


def rows_seen(dataset: Dataset, start: int, count: int) -> list[PreviewRow]:
    """At most `count` rows behind the first `start`; fewer where the file cannot be read further.

    Raises UserError where reading them takes too much time or memory, or (503) where too many rows
    are being read at the moment.
    """
    if start >= dataset.row_count:
        return []

    mark = nearest_mark(dataset, start)
    skip = start - mark.rows
    count = min(count, dataset.row_count - start)
    if not _is_small(dataset):
        options = (*mark_options(mark), "--skip", str(skip), "--rows", str(count))
        return _read_by_program(dataset, options)

    try:
        rows = islice(read_rows(dataset.path, dataset.file_type, mark), skip, skip + count)
        return list(preview_rows(rows, dataset.format, dataset.column_map))
    except (FileProblem, FileNotFoundError):
        return []


def rows_numbered(dataset: Dataset, numbers: Sequence[int]) -> list[PreviewRow]:
    """The rows with these numbers in the file, from 0, in file order; fewer where the file cannot be
    read further. Raises UserError as rows_seen does."""
    if not numbers:
        return []

    known = _marks(dataset)
    marks = list({_nearest(known, number): None for number in numbers})
    if not _is_small(dataset):
        places = json.dumps([[mark.rows, mark.lines, mark.offset] for mark in marks])
        options = ("--at", json.dumps([*numbers]), "--marks", places)
        return _read_by_program(dataset, options)

    try:
        rows = rows_at(dataset.path, dataset.file_type, numbers, marks)
        return list(preview_rows(rows, dataset.format, dataset.column_map))
    except (FileProblem, FileNotFoundError):
        return []


def _is_small(dataset: Dataset) -> bool:
    """Whether it is read here and by no program; so is a file that is not there."""
    try:
        size = dataset.path.stat().st_size
    except FileNotFoundError:
        return True

    return size <= SMALL_BYTES and dataset.file_type != "parquet"


def _read_by_program(dataset: Dataset, options: tuple[str, ...]) -> list[PreviewRow]:
    """options: which rows."""
    rows: list[PreviewRow] = []

    def on_report(news: dict[str, Any]) -> None:
        if "row" in news:
            rows.append(PreviewRow.from_json(news["row"]))

    if not AT_ONCE.acquire(timeout=WAIT_SECONDS):
        raise UserError(BUSY, status=503)

    try:
        program_run(
            "engine.rows.preview",
            *file_options(dataset),
            *options,
            seconds=SECONDS,
            memory_bytes=MEMORY_BYTES,
            too_long=TOO_LONG,
            on_report=on_report,
        )
    except ProgramProblem as problem:
        raise UserError(str(problem), code="too_large", status=409) from problem
    finally:
        AT_ONCE.release()

    return rows


def file_options(dataset: Dataset) -> tuple[str, ...]:
    """Options that tell a program of the engine which file to read, and how."""
    return (
        "--data",
        str(dataset.path),
        "--file-type",
        dataset.file_type,
        "--format",
        dataset.format,
        "--column-map",
        json.dumps(dataset.column_map),
    )


def mark_options(mark: FilePosition) -> tuple[str, str]:
    """The option that tells a program of the engine where in the file to begin."""
    return "--mark", json.dumps([mark.rows, mark.lines, mark.offset])


def nearest_mark(dataset: Dataset, start: int) -> FilePosition:
    """The last mark at or before row `start`; the check left one every so many rows."""
    return _nearest(_marks(dataset), start)


def _nearest(marks: list[FilePosition], start: int) -> FilePosition:
    before = [mark for mark in marks if mark.rows <= start]
    return max(before, key=lambda mark: mark.rows, default=FilePosition())


def mark_before_line(dataset: Dataset, line: int) -> FilePosition:
    """The last mark from which the row of that line is still to come."""
    before = [mark for mark in _marks(dataset) if mark.lines < line]
    return max(before, key=lambda mark: mark.rows, default=FilePosition())


def _marks(dataset: Dataset) -> list[FilePosition]:
    try:
        return [FilePosition(*values) for values in json.loads(dataset.marks_path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def row_seen(
    dataset: Dataset,
    row: Row,
    *,
    format: str | None = None,
    column_map: dict[str, str] | None = None,
) -> PreviewRow:
    """The row as the page shows it; `format` and `column_map` where it is not read as the dataset
    is."""
    read_as = dataset.format if format is None else format
    columns = dataset.column_map if column_map is None else column_map
    (seen,) = preview_rows([row], read_as, columns)

    return seen
