"""Finds rows of a file: those on given lines, or those that hold a text.

    python -m engine.programs.find_rows --data FILE --file-type T --format F --column-map JSON --mark JSON
                               (--lines JSON [--repair SLUG] | --search TEXT --rows N) --seconds S

prints each row that it finds as one line of JSON, {"row": {...}}, and last {"done": {"read": rows
read, "matches": rows that hold the text, "next": the position after the last row that was reported,
or null, "complete": whether the file was read to its end}}.

The search continues to count after the last row that it reports, for at most S seconds in all.
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

# A row that is longer than this is not sent whole.
ROW_BYTES = 256 << 10
# The clock is read once in this many rows.
CLOCK_EVERY_ROWS = 64


@dataclass
class SearchResult:
    """What a search has found so far. `next_mark`: the position after the last row that was
    reported."""

    read: int = 0
    matches: int = 0
    next_mark: FilePosition | None = None
    complete: bool = True

    def as_dict(self) -> dict[str, Any]:
        mark = None if self.next_mark is None else astuple(self.next_mark)
        return {"read": self.read, "matches": self.matches, "next": mark, "complete": self.complete}


@dataclass
class Clock:
    """A time limit, checked after every row."""

    seconds: float
    started: float = field(default_factory=time.monotonic)
    calls: int = 0

    def is_over(self) -> bool:
        self.calls += 1
        if self.calls % CLOCK_EVERY_ROWS:
            return False

        return time.monotonic() - self.started > self.seconds


def rows_on(
    rows: Iterator[Row], lines: set[int], clock: Clock, result: SearchResult
) -> Iterator[Row]:
    """The rows that begin on these lines. `rows` come in the order of their lines."""
    last = max(lines, default=0)
    for row in rows:
        result.read += 1
        if row.line > last:
            return

        if row.line in lines:
            result.matches += 1
            yield row

        if clock.is_over():
            result.complete = False
            return


def rows_with(
    rows: Iterator[Row],
    text: str,
    start: FilePosition,
    most: int,
    clock: Clock,
    result: SearchResult,
) -> Iterator[Row]:
    """The first `most` rows that hold the text in upper or lower case; further ones are only
    counted."""
    wanted = text.casefold()
    place = start

    for row in rows:
        result.read += 1
        place = place.after(row)

        if holds(row, wanted):
            result.matches += 1
            if result.matches <= most:
                result.next_mark = place
                yield row

        if clock.is_over():
            result.complete = False
            # With few matches the next search starts where this one had to stop.
            if result.matches < most:
                result.next_mark = place

            return

    if result.matches <= most:
        result.next_mark = None


def holds(row: Row, wanted: str) -> bool:
    """Whether any value of the row holds a text, which is casefolded already."""
    if row.values is None:
        return wanted in row.raw.casefold()

    # No recursion: a row may be nested more deeply than Python's calls may be. The list grows while
    # it is read.
    values: list[Any] = [row.values]
    for value in values:
        if isinstance(value, str):
            if wanted in value.casefold():
                return True
        elif isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif value is not None and not isinstance(value, bool) and wanted in str(value):
            return True

    return False


def report(row: Row, mender: RowRepairer | SafeRepairer | None) -> dict[str, Any]:
    """The row as the web gets it; `mended`: the rows that a repair makes of it, null without a
    repair."""
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
    options = parser.parse_args(arguments)

    start = FilePosition(*options.mark)
    result = SearchResult()
    clock = Clock(options.seconds)
    mender = mender_of(options.repair, options.format, options.column_map)
    rows = read_rows(options.data, options.file_type, start)

    if options.lines is None:
        chosen = rows_with(rows, options.search, start, options.rows, clock, result)
    else:
        chosen = rows_on(rows, set(options.lines), clock, result)

    try:
        for row in chosen:
            print(json.dumps({"row": report(row, mender)}, default=str), flush=True)
    except (FileProblem, OSError) as problem:
        print(json.dumps({"error": str(problem)}), flush=True)
        return 1

    print(json.dumps({"done": result.as_dict()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
