"""Rows of a dataset by their line, or by a text that they hold.

A program of the engine reads the file, with limits on time and memory: the file is a stranger's,
and the web reads none of it itself."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from core.errors import UserError
from core.programs import ProgramProblem, program_run
from core.text import clean_text
from datasets_app.models import Dataset
from datasets_app.preview import PreviewRow, mark_before_line, row_seen
from engine.rows.lines import FilePosition, Row

SEARCH_SECONDS = 4.0
LINES_SECONDS = 10.0
# What starting the program may take besides.
START_SECONDS = 20.0
MEMORY_BYTES = 2 << 30
SEARCH_ROWS = 10
SEARCH_CHARACTERS = 200
# A search takes a processor for some seconds.
AT_ONCE = threading.BoundedSemaphore(2)
WAIT_SECONDS = 15
BUSY = "Too many searches are running at the moment. Try again in a minute."
TOO_LONG = "The rows could not be read in time. Split the file into smaller ones."
MARK = re.compile(r"([0-9]{1,15})-([0-9]{1,15})-([0-9]{1,18})")


@dataclass(frozen=True)
class FoundRow:
    """values: the row as it stands in the file, None where it cannot be read or is too long.
    mended: the rows that a repair makes of it, None where no repair was asked for."""

    line: int
    values: dict[str, Any] | None
    seen: PreviewRow
    mended: list[dict[str, Any]] | None = None
    too_long: bool = False


@dataclass(frozen=True)
class SearchResult:
    """read: rows that were looked through, matches: those of them that hold the text. next: where
    the next page begins, "" behind the last. complete: whether the file was read to its end."""

    rows: list[FoundRow] = field(default_factory=list)
    read: int = 0
    matches: int = 0
    next: str = ""
    complete: bool = True


def rows_on_lines(dataset: Dataset, lines: Iterable[int], repair: str = "") -> dict[int, FoundRow]:
    """{line: row} of those lines that begin a row; `repair`: a slug to try on them.

    Raises UserError where the file cannot be read.
    """
    wanted = sorted(set(lines))
    if not wanted:
        return {}

    arguments = ("--lines", json.dumps(wanted), "--repair", repair, "--seconds", str(LINES_SECONDS))
    rows, _ = _run(dataset, mark_before_line(dataset, wanted[0]), arguments, LINES_SECONDS)
    return {row.line: row for row in rows}


def rows_search(dataset: Dataset, text: str, after: str = "") -> SearchResult:
    """The next rows that hold `text`, behind the place that an earlier result gave as `next`.

    Raises UserError, with status 503 where it may go well later.
    """
    text = clean_text(text).strip()[:SEARCH_CHARACTERS]
    if not text:
        return SearchResult()

    if not AT_ONCE.acquire(timeout=WAIT_SECONDS):
        raise UserError(BUSY, status=503)

    try:
        arguments = (
            f"--search={text}",
            "--rows",
            str(SEARCH_ROWS),
            "--seconds",
            str(SEARCH_SECONDS),
        )

        rows, done = _run(dataset, mark_read(after), arguments, SEARCH_SECONDS)
    finally:
        AT_ONCE.release()

    place = "" if done["next"] is None else "-".join(str(number) for number in done["next"])
    return SearchResult(rows, done["read"], done["matches"], place, done["complete"])


def mark_read(text: str) -> FilePosition:
    """The place that an address names; the beginning for anything else."""
    found = MARK.fullmatch(text)
    return FilePosition(*(int(number) for number in found.groups())) if found else FilePosition()


def _run(
    dataset: Dataset, mark: FilePosition, arguments: tuple[str, ...], seconds: float
) -> tuple[list[FoundRow], dict[str, Any]]:
    rows: list[FoundRow] = []

    def keep(news: dict[str, Any]) -> None:
        if "row" in news:
            rows.append(_found_row(dataset, news["row"]))

    try:
        done = program_run(
            "engine.programs.find_rows",
            *(
                "--data",
                str(dataset.path),
                "--file-type",
                dataset.file_type,
                "--format",
                dataset.format,
            ),
            *("--column-map", json.dumps(dataset.column_map)),
            *("--mark", json.dumps([mark.rows, mark.lines, mark.offset])),
            *arguments,
            seconds=START_SECONDS + seconds,
            memory_bytes=MEMORY_BYTES,
            too_long=TOO_LONG,
            on_report=keep,
        )
    except ProgramProblem as problem:
        raise UserError(str(problem), status=409) from problem

    return rows, done


def _found_row(dataset: Dataset, data: dict[str, Any]) -> FoundRow:
    row = Row(
        data["line"], data["values"], data["problem"], data["raw"], notes=tuple(data["notes"])
    )
    if data["too_long"]:
        row = row._replace(
            problem="The row is too long to be shown here. Download the file to see it."
        )

    return FoundRow(
        data["line"], data["values"], row_seen(dataset, row), data["mended"], data["too_long"]
    )
