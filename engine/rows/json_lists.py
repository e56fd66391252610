"""Rows of a JSON file: of one list, of the lists in an object, or objects one after another.

No training library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.rows.file_type import (
    BEGINNING_BYTES,
    BOM,
    NOT_JSON_ROWS,
    ROW_LISTS,
    WRAPPED_LIST,
    FileProblem,
)
from engine.rows.lines import (
    CHUNK_BYTES,
    ROW_LIMIT_BYTES,
    TOO_LONG,
    FilePosition,
    Row,
    json_row,
    lines_of,
)

TEXT_BEHIND_LIST = (
    "There is more text after the end of the list. A JSON file holds one list of objects."
)
LIST_NOT_CLOSED = (
    "The list is not closed: the file ends within row {row:,}. Was it cut off, or is a quotation "
    "mark or bracket missing?"
)

_STRING = re.compile(rb'"|\\.', re.DOTALL)
_STRUCTURE = re.compile(rb'["\[\]{},]')
# What follows a member of an object: the next one, with the beginning of a list of rows or of
# another value, or the end.
_NEXT_MEMBER = re.compile(rb'\s*,?\s*"((?:[^"\\]|\\.){0,2000})"\s*:\s*(\[(?=\s*[{\]]))?')


def read_json(path: Path, start: FilePosition) -> Iterator[Row]:
    """Rows behind `start`. Raises FileProblem where the file cannot be read any further."""
    with path.open("rb") as stream:
        beginning = _beginning(stream)
        stream.seek(start.offset or beginning.offset)
        number = start.rows
        has_objects = bool(start.rows)

        part: str | None = beginning.name
        if beginning.is_member and start.offset and _list_ended(stream):
            part = _next_list(stream)

        while part is not None:
            elements = _elements(stream, number) if beginning.is_list else _objects(stream)
            for raw, end in elements:
                number += 1
                if raw is None:
                    row = Row(number, None, TOO_LONG, end=end)
                    has_objects = True
                else:
                    row = json_row(number, raw, end)
                    is_object = row.values is not None or raw.startswith(b"{")
                    has_objects = has_objects or is_object

                yield row._replace(part=part) if part else row

            part = _next_list(stream) if beginning.is_member else None

        if number and not has_objects:
            raise FileProblem(NOT_JSON_ROWS)

        if not beginning.is_member and stream.read(CHUNK_BYTES).strip():
            raise FileProblem(TEXT_BEHIND_LIST)


class _Beginning(NamedTuple):
    """offset: where the first row begins. name: of the list that holds it, "" for one without a
    name. is_list: whether rows stand in a list; is_member: whether that list is a member of an
    object, which may hold others."""

    offset: int
    name: str = ""
    is_list: bool = True
    is_member: bool = False


def _beginning(stream: BinaryIO) -> _Beginning:
    head = stream.read(CHUNK_BYTES)
    start = len(head) - len(head.removeprefix(BOM).lstrip())
    first = head[start : start + 1]
    if first == b"[":
        return _Beginning(start + 1)

    wrapped = WRAPPED_LIST.match(head, start)
    if wrapped is not None and wrapped[1].lower() not in ROW_LISTS:
        offset = head.index(b"[", wrapped.end(1)) + 1
        return _Beginning(offset, _name(wrapped[1]), is_member=True)

    if first == b"{":
        return _Beginning(start, is_list=False)

    raise FileProblem(NOT_JSON_ROWS)


def _name(raw: bytes) -> str:
    return raw.decode(errors="replace")[:100]


def _list_ended(stream: BinaryIO) -> bool:
    """Whether the row in front of this place was the last one of its list."""
    place = stream.tell()
    stream.seek(place - 1)
    return stream.read(1) == b"]"


def _next_list(stream: BinaryIO) -> str | None:
    """The name of the next list of rows among an object's members, None where there is none; leaves
    the stream behind the list's [. Members that are no lists of objects are passed over."""
    while True:
        place = stream.tell()
        member = _NEXT_MEMBER.match(stream.read(BEGINNING_BYTES))
        if member is None:
            return None

        stream.seek(place + member.end())
        if member[2]:
            return _name(member[1])

        # Any other value ends where an element of a list would.
        _, end = next(_elements(stream, 0), (None, 0))
        stream.seek(end - 1 if end else place)

        if stream.read(1) != b",":
            return None

        stream.seek(end - 1)


def _objects(stream: BinaryIO) -> Iterator[tuple[bytes | None, int]]:
    """Objects one after another, each over several lines: one ends with a bracket at the beginning
    of a line. Yields as _elements."""
    held: list[bytes] = []
    size = 0

    for line in lines_of(stream):
        size += ROW_LIMIT_BYTES + 1 if line is None else len(line)
        is_too_long = size > ROW_LIMIT_BYTES

        if line is None or is_too_long:
            held = held[:1] or [b"{"]
        elif held or line.strip():
            held.append(line)

        if line is not None and _ends_object(held, line):
            raw = b"".join(held).strip().removesuffix(b",")
            yield (None if is_too_long else raw), stream.tell()
            held = []
            size = 0

    if held:
        raw = b"".join(held).strip()
        yield (None if size > ROW_LIMIT_BYTES else raw), stream.tell()


def _ends_object(held: list[bytes], line: bytes) -> bool:
    text = line.rstrip().removesuffix(b",")
    if text == b"}":
        return True

    is_one_line = len(held) == 1 and line.startswith(b"{")
    return is_one_line and text.endswith(b"}")


def _elements(stream: BinaryIO, number: int) -> Iterator[tuple[bytes | None, int]]:
    """Elements behind the `number`th of a list, unparsed, with the bytes read; None for one that is
    too long to hold.

    Only brackets, commas and strings are looked at, so that one broken element does not end the
    reading. Leaves the stream behind the closing bracket. Raises FileProblem where that is missing.
    """
    # buffer begins at byte `base` of the file; the element begins at `start` of it.
    buffer = b""
    base = stream.tell()
    start = 0
    position = 0
    depth = 0
    in_string = False
    is_too_long = False

    while True:
        pattern = _STRING if in_string else _STRUCTURE
        match = pattern.search(buffer, position)
        if match is None:
            # In a string a last backslash waits for the character that it escapes.
            waits = in_string and buffer.endswith(b"\\")
            position = max(position, len(buffer) - waits)
            if position - start > ROW_LIMIT_BYTES:
                is_too_long = True
                start = position

            chunk = stream.read(CHUNK_BYTES)
            if not chunk:
                raise FileProblem(LIST_NOT_CLOSED.format(row=number + 1))

            buffer = buffer[start:] + chunk
            base += start
            position -= start
            start = 0
            continue

        position = match.end()
        token = match[0]

        if in_string:
            in_string = token != b'"'
        elif token == b'"':
            in_string = True
        elif token in b"[{":
            depth += 1
        elif token in b"]}" and depth:
            depth -= 1
        elif depth == 0:
            raw = buffer[start : position - 1].strip()
            is_too_long = is_too_long or len(raw) > ROW_LIMIT_BYTES
            if raw or is_too_long or token == b",":
                number += 1
                yield (None if is_too_long else raw), base + position

            start = position
            is_too_long = False
            if token != b",":
                stream.seek(base + position)
                return
