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
from datasets_app.preview import PreviewRow, file_options, mark_before_line, mark_options, row_seen
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

    mark = mark_before_line(dataset, wanted[0])
    options = ("--lines", json.dumps(wanted), "--repair", repair)
    rows, _ = _run(dataset, mark, options, LINES_SECONDS)

    return {row.line: row for row in rows}


def rows_search(
    dataset: Dataset, text: str, after: str = "", rows: int = SEARCH_ROWS
) -> SearchResult:
    """The next `rows` rows that hold `text`, behind the place that an earlier result gave as `next`.

    Raises UserError, with status 503 where it may go well later.
    """
    text = clean_text(text).strip()[:SEARCH_CHARACTERS]
    if not text:
        return SearchResult()

    if not AT_ONCE.acquire(timeout=WAIT_SECONDS):
        raise UserError(BUSY, status=503)

    try:
        options = (f"--search={text}", "--rows", str(rows))
        found, report = _run(dataset, mark_read(after), options, SEARCH_SECONDS)
    finally:
        AT_ONCE.release()

    next_place = ""
    if report["next"] is not None:
        next_place = "-".join(str(number) for number in report["next"])

    return SearchResult(
        rows=found,
        read=report["read"],
        matches=report["matches"],
        next=next_place,
        complete=report["complete"],
    )


def mark_read(text: str) -> FilePosition:
    """The place that an address names; the beginning for anything else."""
    numbers = MARK.fullmatch(text)
    if numbers is None:
        return FilePosition()

    return FilePosition(*(int(number) for number in numbers.groups()))


def _run(
    dataset: Dataset, mark: FilePosition, options: tuple[str, ...], seconds: float
) -> tuple[list[FoundRow], dict[str, Any]]:
    """(rows, the program's last report). The program looks for `seconds`."""
    rows: list[FoundRow] = []

    def on_news(news: dict[str, Any]) -> None:
        if "row" in news:
            rows.append(_found_row(dataset, news["row"]))

    try:
        report = program_run(
            "engine.programs.find_rows",
            *file_options(dataset),
            *mark_options(mark),
            *options,
            "--seconds",
            str(seconds),
            seconds=START_SECONDS + seconds,
            memory_bytes=MEMORY_BYTES,
            too_long=TOO_LONG,
            on_report=on_news,
        )
    except ProgramProblem as problem:
        raise UserError(str(problem), status=409) from problem

    return rows, report


def _found_row(dataset: Dataset, data: dict[str, Any]) -> FoundRow:
    problem = data["problem"]
    if data["too_long"]:
        problem = "The row is too long to be shown here. Download the file to see it."

    row = Row(data["line"], data["values"], problem, data["raw"], notes=tuple(data["notes"]))
    return FoundRow(
        line=data["line"],
        values=data["values"],
        seen=row_seen(dataset, row),
        mended=data["mended"],
        too_long=data["too_long"],
    )
