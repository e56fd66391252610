"""Which column of a file is read as which column of a format. Standard library only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from engine.rows.formats import FORMATS

COLUMNS = {slug: (*item.columns, *item.optional) for slug, item in FORMATS.items()}


def columns_read(format: str, column_map: Mapping[str, str]) -> dict[str, str]:
    """{the format's column: the file's} of all that are read.

    column_map: "" for a column that is not to be read. One that the map does not name is read under
    its own name, unless that is the name of a column that is read as something else.
    """
    sources = column_map.values()
    columns = {}
    for name in COLUMNS.get(format, ()):
        own_name = "" if is_taken(name, sources) else name
        source = column_map.get(name, own_name)
        if source or name in FORMATS[format].columns:
            columns[name] = source

    return columns


def is_taken(column: str, sources: Collection[str]) -> bool:
    """Whether a column, or a field within it, is among those that are read already."""
    if column in sources:
        return True

    inside = f"{column}."
    return any(source.startswith(inside) for source in sources)


@dataclass(frozen=True)
class ColumnUse:
    """How the columns of a file are used.

    columns: as columns_read.
    used: the file's columns that are read.
    partly_used: those of which only fields within are read.
    """

    columns: Mapping[str, str]
    used: frozenset[str]
    partly_used: frozenset[str]


@lru_cache(maxsize=64)
def column_use(format: str, column_map: tuple[tuple[str, str], ...]) -> ColumnUse:
    columns = columns_read(format, dict(column_map))
    used = frozenset(columns.values())

    parents = set()
    for column in used:
        while "." in column:
            column, _, _ = column.rpartition(".")
            parents.add(column)

    return ColumnUse(columns, used, frozenset(parents))
