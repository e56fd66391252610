"""Rows of a checked dataset, a page at a time, as they stand in the file and as the model will see them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from datasets_app.models import Dataset
from engine.examples import Example, RowProblem, to_example
from engine.formats import FORMATS
from engine.rows import FileProblem, Mark, Row, read_rows

TEXT_LIMIT = 20_000
ITEMS_LIMIT = 200


@dataclass(frozen=True)
class Seen:
    """One row: `values` as in the file (long ones shortened), and its example or its problem."""

    line: int
    values: dict[str, Any] | None
    example: Example | None
    problem: dict[str, str] | None
    shortened: bool = False

    @property
    def as_json(self) -> str:
        return json.dumps(self.values, ensure_ascii=False, indent=2)


def rows_seen(dataset: Dataset, start: int, count: int) -> list[Seen]:
    """At most `count` rows behind the first `start`. Where the file cannot be read any further they end there."""
    if start >= dataset.row_count:
        return []
    try:
        return [
            row_seen(dataset, row) for row in islice(_rows_from(dataset, start), min(count, dataset.row_count - start))
        ]
    except (FileProblem, FileNotFoundError):
        return []


def _rows_from(dataset: Dataset, start: int) -> Iterator[Row]:
    mark = nearest_mark(dataset, start)
    return islice(read_rows(dataset.path, dataset.file_type, mark), start - mark.rows, None)


def nearest_mark(dataset: Dataset, start: int) -> Mark:
    """The last mark at or before row `start`; the check left one every so many rows."""
    before = [mark for mark in _marks(dataset) if mark.rows <= start]
    return max(before, key=lambda mark: mark.rows, default=Mark())


def mark_before_line(dataset: Dataset, line: int) -> Mark:
    """The last mark from which the row of that line is still to come."""
    before = [mark for mark in _marks(dataset) if mark.lines < line]
    return max(before, key=lambda mark: mark.rows, default=Mark())


def _marks(dataset: Dataset) -> list[Mark]:
    try:
        return [Mark(*values) for values in json.loads(dataset.marks_path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def row_seen(
    dataset: Dataset, row: Row, *, format: str | None = None, column_map: dict[str, str] | None = None
) -> Seen:
    """The row as the page shows it; `format` and `column_map` where it is not read as the dataset is."""
    read_as = dataset.format if format is None else format
    column_map = dataset.column_map if column_map is None else column_map
    if row.values is None:
        problem = {"field": "", "value": row.raw, "reason": row.problem}
        return Seen(row.line, None, None, problem)

    values, whole = shorten(row.values)
    if read_as not in FORMATS:
        return Seen(row.line, values, None, None, not whole)
    try:
        example = to_example(row.values, read_as, column_map)
    except RowProblem as error:
        problem = {"field": error.field, "value": error.value, "reason": error.reason}
        return Seen(row.line, values, None, problem, not whole)
    example, whole_example = _shorten_example(example)
    return Seen(row.line, values, example, None, not (whole and whole_example))


def _shorten_example(example: Example) -> tuple[Example, bool]:
    if example.text is not None:
        text, whole = shorten(example.text)
        return replace(example, text=text), whole
    turns = {side: shorten(getattr(example, side)) for side in ("messages", "chosen", "rejected")}
    shown = replace(example, **{side: shortened for side, (shortened, _) in turns.items()})
    return shown, all(whole for _, whole in turns.values())


def shorten(value: Any) -> tuple[Any, bool]:
    """`value` in JSON's terms, texts and lists cut to what a page can hold; and whether it is whole."""
    if isinstance(value, str):
        return (value, True) if len(value) <= TEXT_LIMIT else (f"{value[:TEXT_LIMIT]} …", False)
    if isinstance(value, dict):
        pairs = {str(name): shorten(item) for name, item in islice(value.items(), ITEMS_LIMIT)}
        return {name: item for name, (item, _) in pairs.items()}, _all_whole(value, pairs.values())
    if isinstance(value, list | tuple):
        items = [shorten(item) for item in value[:ITEMS_LIMIT]]
        return [item for item, _ in items], _all_whole(value, items)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value), True
    if value is None or isinstance(value, bool | int | float):
        return value, True
    # What only Parquet holds: bytes, decimals, dates.
    return (f"({len(value):,} bytes)" if isinstance(value, bytes) else str(value)), True


def _all_whole(value: Any, parts: Any) -> bool:
    return len(value) <= ITEMS_LIMIT and all(whole for _, whole in parts)
