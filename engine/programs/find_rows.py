"""Finds rows of a file: those on given lines, or those that hold a text.

    python -m engine.programs.find_rows --data FILE --file-type T --format F --column-map JSON --mark JSON
                               (--lines JSON [--repair SLUG] | --search TEXT --rows N) --seconds S

reports each row that it finds as one line of JSON, {"row": {...}}, and last {"done": {"read": rows
read, "matches": rows that hold the text, "next": the place behind the last row that was reported,
or null, "complete": whether the file was read to its end}}.

The search goes on counting behind the last row that it reports, for at most S seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from engine.doctor.combined_repairs import SafeRepairer
from engine.doctor.repair_kinds import MEND_SAFE, REPAIRS
from engine.doctor.row_repairs import RowRepairer
from engine.rows.lines import FilePosition, Row
from engine.rows.read import FileProblem, read_rows

# A longer row is not sent whole.
ROW_BYTES = 256 << 10
# The clock is looked at once for so many rows.
CLOCK_EVERY_ROWS = 64


@dataclass
class Found:
    """What a search has come to. `next_mark`: behind the last row that was reported."""

    read: int = 0
    matches: int = 0
    next_mark: FilePosition | None = None
    complete: bool = True

    def as_dict(self) -> dict[str, Any]:
        mark = None if self.next_mark is None else astuple(self.next_mark)
        return {"read": self.read, "matches": self.matches, "next": mark, "complete": self.complete}


@dataclass
class Clock:
    """Whether the time is over, asked after every row."""

    seconds: float
    started: float = field(default_factory=time.monotonic)
    asked: int = 0

    def is_over(self) -> bool:
        self.asked += 1
        if self.asked % CLOCK_EVERY_ROWS:
            return False

        return time.monotonic() - self.started > self.seconds


def rows_on(rows: Iterator[Row], lines: set[int], clock: Clock, found: Found) -> Iterator[Row]:
    """The rows that begin on these lines. `rows` come in the order of their lines."""
    last = max(lines, default=0)
    for row in rows:
        found.read += 1
        if row.line > last:
            return

        if row.line in lines:
            found.matches += 1
            yield row

        if clock.is_over():
            found.complete = False
            return


def rows_with(
    rows: Iterator[Row], text: str, start: FilePosition, most: int, clock: Clock, found: Found
) -> Iterator[Row]:
    """The first `most` rows that hold the text, upper and lower case alike; the others are
    counted."""
    wanted = text.casefold()
    place = start

    for row in rows:
        found.read += 1
        place = place.after(row)

        if holds(row, wanted):
            found.matches += 1
            if found.matches <= most:
                found.next_mark = place
                yield row

        if clock.is_over():
            found.complete = False
            # With few matches the next search begins where this one had to stop.
            if found.matches < most:
                found.next_mark = place

            return

    if found.matches <= most:
        found.next_mark = None


def holds(row: Row, wanted: str) -> bool:
    """Whether any value of the row holds a text, which is casefolded already."""
    if row.values is None:
        return wanted in row.raw.casefold()

    # No recursion: a row may be nested more deeply than Python calls.
    inside: list[Any] = [row.values]
    for value in inside:
        if isinstance(value, str):
            if wanted in value.casefold():
                return True
        elif isinstance(value, dict):
            inside += value.values()
        elif isinstance(value, list):
            inside += value
        elif value is not None and not isinstance(value, bool) and wanted in str(value):
            return True

    return False


def report(row: Row, mender: RowRepairer | SafeRepairer | None) -> dict[str, Any]:
    """The row as the web gets it; `mended`: the rows that a repair makes of it, null without
    one."""
    mended = None

    if mender is not None and row.values is not None:
        mended = mender.rows(row.values)

    shown = {
        "line": row.line,
        "values": row.values,
        "problem": row.problem,
        "raw": row.raw,
        "notes": row.notes,
        "mended": mended,
        "too_long": False,
    }

    if len(json.dumps(shown, default=str)) > ROW_BYTES:
        shown |= {"values": None, "mended": None, "too_long": True}

    return shown


def mender_of(
    slug: str, format: str, column_map: dict[str, str]
) -> RowRepairer | SafeRepairer | None:
    if not slug:
        return None
    if slug == MEND_SAFE:
        return SafeRepairer(format, column_map)

    return RowRepairer(slug, format, column_map, makes=REPAIRS[slug].makes)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.programs.find_rows", description="Find rows of a file."
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file-type", required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--column-map", type=json.loads, default={})
    parser.add_argument("--mark", type=json.loads, default=[0, 0, 0])
    parser.add_argument("--lines", type=json.loads)
    parser.add_argument("--repair", default="")
    parser.add_argument("--search", default="")
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args(arguments)

    start, found, clock = FilePosition(*given.mark), Found(), Clock(given.seconds)
    mender = mender_of(given.repair, given.format, given.column_map)
    rows = read_rows(given.data, given.file_type, start)

    if given.lines is None:
        chosen = rows_with(rows, given.search, start, given.rows, clock, found)
    else:
        chosen = rows_on(rows, set(given.lines), clock, found)

    try:
        for row in chosen:
            print(json.dumps({"row": report(row, mender)}, default=str), flush=True)
    except (FileProblem, OSError) as problem:
        print(json.dumps({"error": str(problem)}), flush=True)
        return 1

    print(json.dumps({"done": found.as_dict()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
