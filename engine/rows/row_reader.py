"""One row while it is read: its values by the names of its format, and what was noticed on the way.

Standard library only. Nothing of a row is dropped silently: what was understood in another way than
it is written becomes a note, and a field that has content and is not used is kept by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from engine.rows.values import (
    MISSING,
    RowProblem,
    as_json,
    has_content,
    is_text_part,
    parsed,
    value_at,
)

# Columns that hold pictures, sound or video, in any format. No method here learns from them.
MEDIA = frozenset({"image", "images", "video", "videos", "audio", "audios"})

# What a row can have been noticed for. The kinds of findings in engine.doctor.examine that bear
# these names say it to people.
PYTHON_TEXT = "python_text"
NULL_ARGUMENTS = "null_arguments"
TRANSCRIPT = "transcript"
SEPARATORS = "separators"
OBJECT_TEXT = "object_text"


class RowReader:
    """One row while it is read.

    values: the row as it stands in the file.
    columns: {the format's column: the file's}; one that is not there is not read.
    tools: those that the row offers, once they are read.
    notes, unused: see the module; without repetitions.
    """

    __slots__ = ("columns", "notes", "tools", "unused", "values")

    def __init__(self, values: dict[str, Any], columns: Mapping[str, str]) -> None:
        self.values = values
        self.columns = columns
        self.tools: list[dict[str, Any]] = []
        self.notes: tuple[str, ...] = ()
        self.unused: tuple[str, ...] = ()

    def column(self, name: str) -> str:
        """The file's name of a column of the format."""
        return self.columns.get(name, name)

    def get(self, name: str) -> Any:
        """The value of a column, None where the row has none."""
        column = self.columns.get(name)
        if column is None:
            return None

        value = self.values.get(column)
        if value is None and "." in column:
            value = value_at(self.values, column)

        return None if value is MISSING else value

    def needed(self, name: str) -> Any:
        """The value of a column. Raises RowProblem where the row has no such column; null is a
        value."""
        column = self.columns.get(name, name)
        value = self.values.get(column, MISSING)
        if value is MISSING and (value := value_at(self.values, column)) is MISSING:
            raise RowProblem(column, "", "The column is missing in this row.")

        return value

    def as_text(self, value: Any) -> Any:
        """An object as the JSON that a model would write, where a text is needed; all else as it
        is."""
        if type(value) is not dict or not value or is_text_part(value):
            return value

        self.note(OBJECT_TEXT)
        return as_json(value)

    def parse(self, text: str, where: str, reason: str) -> Any:
        """The value that a text holds as JSON, or as Python prints it, which is noted. Raises
        RowProblem with `reason`."""
        value, was_python = parsed(text, where, reason)
        if was_python:
            self.note(PYTHON_TEXT)

        return value

    def note(self, kind: str) -> None:
        if kind not in self.notes:
            self.notes += (kind,)

    def unused_add(self, field: str, value: Any) -> None:
        """`value` stands in the row and is not used."""
        if field not in self.unused and has_content(value):
            self.unused += (field,)

    def unused_columns_add(
        self, names: list[str], used: frozenset[str], partly_used: frozenset[str]
    ) -> None:
        """Remember those of these columns that carry something. None of them is in `used`.

        partly_used: columns of which only fields within are used, as reward_model of
        reward_model.ground_truth.
        """
        for name in names:
            value = self.values[name]
            if name in partly_used and isinstance(value, dict):
                self._unused_fields_add(name, value, used)
            elif has_content(value):
                self.unused += (name,)

    def _unused_fields_add(self, parent: str, fields: dict[str, Any], used: frozenset[str]) -> None:
        for name, value in fields.items():
            path = f"{parent}.{name}"
            inside = f"{path}."
            is_used = any(column == path or column.startswith(inside) for column in used)
            if not is_used:
                self.unused_add(path, value)


@lru_cache(maxsize=4096)
def is_media(column: str) -> bool:
    return column.strip().lower() in MEDIA


def media_check(values: dict[str, Any], columns: list[str]) -> None:
    """Raises RowProblem where one of these columns holds a picture, sound or video."""
    for column in columns:
        if is_media(column) and has_content(values[column]):
            raise RowProblem(
                column,
                values[column],
                "Holds pictures, sound or video, which cannot be trained on yet. The repair "
                "“Keep the text alone” takes them out.",
                "media",
            )
