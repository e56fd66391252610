"""Rows of a dataset as a page shows them: as they stand in the file, and as a model will see them.

    python -m engine.rows.preview --data FILE --file-type T --format F --column-map JSON
        [--mark JSON] [--skip N] [--rows N]

prints {"row": {...}} for each row and then {"done": {}}, or {"error": TEXT}. A row has the fields
of PreviewRow, its example those of engine.rows.examples.Example. Where the file cannot be read any further the
rows end. Runs in a process of its own, whose caller limits its time and memory; the web does the
same itself with files that are small."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from engine.rows.examples import Example, RowProblem, to_example
from engine.rows.formats import FORMATS
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
        example = data["example"]
        if example is not None:
            example["notes"], example["unused"] = tuple(example["notes"]), tuple(example["unused"])
            example = Example(**example)

        return cls(**data | {"example": example})


def preview_rows(
    rows: Iterable[Row], format: str, column_map: dict[str, str]
) -> Iterator[PreviewRow]:
    for row in rows:
        yield _row_shown(row, format, column_map)


def _row_shown(row: Row, format: str, column_map: dict[str, str]) -> PreviewRow:
    if row.values is None:
        return PreviewRow(
            row.line, None, None, {"field": "", "value": row.raw, "reason": row.problem}
        )

    example, problem = None, None
    if format in FORMATS:
        try:
            example = to_example(row.values, format, column_map)
        except RowProblem as error:
            problem = {"field": error.field, "value": error.value, "reason": error.reason}

    for limits in LIMITS:
        seen = _within(row, example, problem, limits)
        if len(_line(seen)) <= ROW_BYTES:
            break

    return seen


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
    parts = {
        name: shorten(getattr(example, name), limits)
        for name in ("text", "messages", "chosen", "rejected", "tools")
    }
    shown = replace(example, **{name: value for name, (value, _) in parts.items()})
    return shown, all(is_whole for _, is_whole in parts.values())


def shorten(value: Any, limits: tuple[int, int] = LIMITS[0]) -> tuple[Any, bool]:
    """`value` in JSON's terms, texts and lists cut to what a page can hold; and whether it is
    whole.

    limits: characters of a text, items of a list or an object.
    """
    characters, items = limits

    if isinstance(value, str):
        return (value, True) if len(value) <= characters else (f"{value[:characters]} …", False)

    if isinstance(value, dict):
        pairs = {str(name): shorten(item, limits) for name, item in islice(value.items(), items)}
        is_whole = len(value) <= items and all(whole for _, whole in pairs.values())
        return {name: item for name, (item, _) in pairs.items()}, is_whole

    if isinstance(value, list | tuple):
        found = [shorten(item, limits) for item in value[:items]]
        is_whole = len(value) <= items and all(whole for _, whole in found)
        return [item for item, _ in found], is_whole

    if isinstance(value, float) and not math.isfinite(value):
        return str(value), True
    if value is None or isinstance(value, bool | int | float):
        return value, True

    # What only Parquet holds: bytes, decimals, dates.
    return (f"({len(value):,} bytes)" if isinstance(value, bytes) else str(value)), True


def _line(seen: PreviewRow) -> str:
    return json.dumps({"row": asdict(seen)}, ensure_ascii=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.rows.preview", description="Show rows.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file-type", required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--column-map", type=json.loads, default={})
    parser.add_argument("--mark", type=json.loads, default=[])
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args(arguments)

    rows = read_rows(given.data, given.file_type, FilePosition(*given.mark))
    wanted = islice(rows, given.skip, given.skip + given.rows)

    try:
        for seen in preview_rows(wanted, given.format, given.column_map):
            print(_line(seen), flush=True)
    except (FileProblem, FileNotFoundError):
        # The check has text_turn why; what could be read is shown.
        pass
    except MemoryError:
        print(json.dumps({"error": "These rows take more memory to show than there may be."}))
        return 1

    print(json.dumps({"done": {}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
