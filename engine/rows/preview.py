"""Rows of a dataset as a page shows them: as they stand in the file, and as a model will see them.

    python -m engine.rows.preview --data FILE --file-type T --format F --column-map JSON
        [--mark JSON] [--skip N] [--rows N] [--at JSON --marks JSON]

prints {"row": {...}} for each row and then {"done": {}}, or {"error": TEXT}. --at: the rows with
these numbers, in file order, and no others; --marks: places to begin from. A row has the fields of
PreviewRow, its example those of engine.rows.examples.Example. Where the file cannot be read any
further the rows end. Runs in a process of its own, whose caller limits its time and memory; the web
does the same itself with files that are small."""

from __future__ import annotations

import argparse
import json
import math
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from engine.rows.command_line import data_arguments_add
from engine.rows.examples import Example, RowProblem, to_example
from engine.rows.formats import FORMATS
from engine.rows.lines import FILE_START
from engine.rows.read import FilePosition, FileProblem, Row, read_rows

ROWS = 5
TEXT_LIMIT = 20_000
ITEMS_LIMIT = 200
# A row of many long texts is cut more and more, until it is no longer than a page can hold.
LIMITS = ((TEXT_LIMIT, ITEMS_LIMIT), (2_000, 50), (200, 20), (40, 5))
ROW_BYTES = 400_000


@dataclass(frozen=True)
class PreviewRow:
    """One row: `values` as in the file (long ones shortened), and its example or its problem."""

    line: int
    values: dict[str, Any] | None
    example: Example | None
    problem: dict[str, str] | None
    shortened: bool = False

    @property
    def as_json(self) -> str:
        return json.dumps(self.values, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PreviewRow:
        values = dict(data)
        if data["example"] is not None:
            example = dict(data["example"])
            example["notes"] = tuple(example["notes"])
            example["unused"] = tuple(example["unused"])
            values["example"] = Example(**example)

        return cls(**values)


def rows_at(
    path: Path, file_type: str, numbers: Sequence[int], marks: Sequence[FilePosition]
) -> Iterator[Row]:
    """The rows with these numbers in the file, from 0, in file order; what lies between is passed
    over from the nearest of the marks, as far as they help. Raises FileProblem."""
    for mark, wanted in _parts(file_type, sorted(set(numbers)), marks):
        last = max(wanted)
        for number, row in enumerate(read_rows(path, file_type, mark), mark.rows):
            if number in wanted:
                yield row
            if number >= last:
                break


def _parts(
    file_type: str, numbers: Sequence[int], marks: Sequence[FilePosition]
) -> Iterator[tuple[FilePosition, set[int]]]:
    """(mark, numbers of the rows that are read from there)."""
    places = sorted({FILE_START, *marks}, key=lambda mark: mark.rows)
    starts = [mark.rows for mark in places]
    found: dict[int, set[int]] = {}
    for number in numbers:
        place = bisect_right(starts, number) - 1
        if file_type == "parquet":
            # Each beginning would unpack the same group of rows again.
            place = next(iter(found), place)

        found.setdefault(place, set()).add(number)

    for place, wanted in found.items():
        yield places[place], wanted


def preview_rows(
    rows: Iterable[Row], format: str, column_map: dict[str, str]
) -> Iterator[PreviewRow]:
    for row in rows:
        yield _preview_row(row, format, column_map)


def _preview_row(row: Row, format: str, column_map: dict[str, str]) -> PreviewRow:
    if row.values is None:
        problem = {"field": "", "value": row.raw, "reason": row.problem}
        return PreviewRow(row.line, None, None, problem)

    example = None
    problem_of_row = None
    if format in FORMATS:
        try:
            example = to_example(row.values, format, column_map)
        except RowProblem as error:
            problem_of_row = {"field": error.field, "value": error.value, "reason": error.reason}

    for limits in LIMITS:
        preview = _within(row, example, problem_of_row, limits)
        if len(_line(preview)) <= ROW_BYTES:
            break

    return preview


def _within(
    row: Row,
    example: Example | None,
    problem: dict[str, str] | None,
    limits: tuple[int, int],
) -> PreviewRow:
    values, is_whole = shorten(row.values, limits)
    if example is not None:
        example, is_whole_example = _shorten_example(example, limits)
        is_whole = is_whole and is_whole_example

    return PreviewRow(row.line, values, example, problem, not is_whole)


def _shorten_example(example: Example, limits: tuple[int, int]) -> tuple[Example, bool]:
    short = {}
    is_whole = True
    for name in ("text", "messages", "chosen", "rejected", "tools"):
        short[name], is_whole_part = shorten(getattr(example, name), limits)
        is_whole = is_whole and is_whole_part

    return replace(example, **short), is_whole


def shorten(value: Any, limits: tuple[int, int] = LIMITS[0]) -> tuple[Any, bool]:
    """`value` in JSON's terms, texts and lists cut to what a page can hold; and whether it is
    whole.

    limits: characters of a text, items of a list or an object.
    """
    characters, items = limits

    if isinstance(value, str):
        is_whole = len(value) <= characters
        return (value if is_whole else f"{value[:characters]} …"), is_whole

    if isinstance(value, dict):
        is_whole = len(value) <= items
        short = {}
        for name, item in islice(value.items(), items):
            short[str(name)], is_whole_item = shorten(item, limits)
            is_whole = is_whole and is_whole_item

        return short, is_whole

    if isinstance(value, list | tuple):
        is_whole = len(value) <= items
        short_items = []
        for item in value[:items]:
            short_item, is_whole_item = shorten(item, limits)
            short_items.append(short_item)
            is_whole = is_whole and is_whole_item

        return short_items, is_whole

    if isinstance(value, float) and not math.isfinite(value):
        return str(value), True
    if value is None or isinstance(value, bool | int | float):
        return value, True

    # What only Parquet holds: bytes, decimals, dates.
    text = f"({len(value):,} bytes)" if isinstance(value, bytes) else str(value)
    return text, True


def _line(preview: PreviewRow) -> str:
    return json.dumps({"row": asdict(preview)}, ensure_ascii=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.rows.preview", description="Show rows.")
    data_arguments_add(parser)
    parser.add_argument("--mark", type=json.loads, default=[])
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--at", type=json.loads)
    parser.add_argument("--marks", type=json.loads, default=[])
    options = parser.parse_args(arguments)

    page: Iterable[Row]
    if options.at is not None:
        marks = [FilePosition(*mark) for mark in options.marks]
        page = rows_at(options.data, options.file_type, options.at, marks)
    else:
        rows = read_rows(options.data, options.file_type, FilePosition(*options.mark))
        page = islice(rows, options.skip, options.skip + options.rows)

    try:
        for preview in preview_rows(page, options.format, options.column_map):
            print(_line(preview), flush=True)
    except (FileProblem, FileNotFoundError):
        # The check has said why; what could be read is shown.
        pass
    except MemoryError:
        print(json.dumps({"error": "These rows take more memory to show than there may be."}))
        return 1

    print(json.dumps({"done": {}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
