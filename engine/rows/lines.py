"""Lines of text files, and the row that a line of JSON is. No training library.

Memory is bounded: a line over ROW_LIMIT_BYTES is passed over, not held.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from engine.rows.bounds import MOST_COLUMNS, ROW_TOO_WIDE
from engine.rows.file_type import BEGINNING_BYTES, BOM, with_returns
from engine.rows.row_reader import PYTHON_TEXT
from engine.rows.values import RowProblem, parsed

ROW_LIMIT_BYTES = 8 << 20
CHUNK_BYTES = 1 << 20
RAW_CHARACTERS = 300
TOO_LONG = f"Longer than {ROW_LIMIT_BYTES >> 20} MB. Split it into several rows, or shorten it."


class Row(NamedTuple):
    """A row of a file.

    line: of the file for JSONL, CSV and text, row number for JSON and Parquet; from 1.
    values: None where the row cannot be read.
    problem, raw: why it cannot be read, and its beginning.
    end: bytes read so far.
    last_line: where a row of several lines ends, 0 for rows that end on `line`, -1 for one within
    the first line.
    notes: what had to be understood in another way than it is written, kinds of
    engine.doctor.examine.
    part: the name of the list that holds it, where a JSON file is an object of lists.
    """

    line: int
    values: dict[str, Any] | None
    problem: str = ""
    raw: str = ""
    end: int = 0
    last_line: int = 0
    notes: tuple[str, ...] = ()
    part: str = ""


@dataclass(frozen=True)
class FilePosition:
    """A place between two rows where reading can resume: `rows` and `lines` of the file lie before
    byte `offset`."""

    rows: int = 0
    lines: int = 0
    offset: int = 0

    def after(self, row: Row, count: int = 1) -> FilePosition:
        """The position behind `row`, which is the `count`th from here."""
        return FilePosition(self.rows + count, max(0, row.last_line or row.line), row.end)


FILE_START = FilePosition()


class _CarriageReturns(io.RawIOBase):
    """A stream in which each carriage return is a line feed: the same number of bytes, so that
    places stay true."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer)) or b""
        buffer[: len(data)] = data.replace(b"\r", b"\n")
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def close(self) -> None:
        self.stream.close()
        super().close()


def ends_with_returns(path: Path) -> bool:
    with path.open("rb") as stream:
        return with_returns(stream.read(BEGINNING_BYTES))


def open_lines(path: Path) -> BinaryIO:
    """The file as bytes whose lines end with line feeds."""
    if ends_with_returns(path):
        return io.BufferedReader(_CarriageReturns(path.open("rb", buffering=0)))

    return path.open("rb")


def lines_of(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines with their ends, the byte order mark taken off; None for one that is too long to
    hold."""
    at_start = stream.tell() == 0
    while line := stream.readline(ROW_LIMIT_BYTES + 1):
        if at_start:
            line = line.removeprefix(BOM)
            at_start = False

        if len(line) <= ROW_LIMIT_BYTES:
            yield line
        else:
            skip_line(stream, line)
            yield None


def skip_line(stream: BinaryIO, part: bytes) -> bytes:
    """Passes over the rest of a line of which `part` was read; its last bytes, with the line break
    where the file does not end first."""
    while part and not part.endswith(b"\n"):
        part = stream.readline(CHUNK_BYTES)

    return part


def json_row(number: int, raw: bytes, end: int) -> Row:
    """The row that a line, or an element of a list, is: `raw` without white space around it."""
    notes: tuple[str, ...] = ()
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        values, notes = _nearly_json(raw)
        if not notes:
            return Row(number, None, _json_problem(raw, error), shown(raw), end)

    keys = 0
    if _is_turns(values):
        # Turns as a row of their own, without an object around them.
        values, notes, keys = {"messages": values}, (*notes, "list_row"), -1

    if not isinstance(values, dict):
        return Row(number, None, "Not an object: a row is written {…}.", shown(raw), end)
    if len(values) > MOST_COLUMNS:
        return Row(number, None, ROW_TOO_WIDE, shown(raw), end)

    if _may_repeat_a_key(raw, keys + _key_count(values)) and (name := _repeated_key(raw)):
        return Row(
            number,
            None,
            f"The name {name[:80]!r} stands twice in the same object.",
            shown(raw),
            end,
        )

    return Row(number, values, "", "", end, notes=notes)


def _nearly_json(raw: bytes) -> tuple[Any, tuple[str, ...]]:
    """(value, notes) of what is JSON but for a comma behind it, for NaN or for being written as
    Python prints it, where it is plain what is meant; no notes for anything else."""
    notes: list[str] = []
    text = raw
    if text.endswith((b"},", b"],")):
        text = text[:-1].rstrip()
        notes.append("trailing_comma")

    def no_value(name: str) -> None:
        if "not_a_number" not in notes:
            notes.append("not_a_number")

    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        if PYTHON_OBJECT.match(text):
            return _python_object(text, (*notes, PYTHON_TEXT))
        if NOT_A_NUMBER.search(text) is None:
            return None, ()

        try:
            # Python's own reader knows these words, which Python's own writer writes.
            value = json.loads(text.decode(), parse_constant=no_value)
        except (ValueError, RecursionError):
            return None, ()

        if "not_a_number" not in notes:
            return None, ()

    return value, tuple(notes)


def _python_object(text: bytes, notes: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    try:
        value, was_python = parsed(text.decode(), "", "")
    except (RowProblem, UnicodeDecodeError):
        return None, ()

    return (value, notes) if was_python else (None, ())


PYTHON_OBJECT = re.compile(rb"[{\[]\s*['{]")
_CONSTANT = re.compile(rb"[:,\[]\s*(-?(?:NaN|Infinity))\b")
NOT_A_NUMBER = re.compile(rb"[:,\[]\s*-?(?:NaN|Infinity)\b")


def _is_turns(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False

    return all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)


def _json_problem(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as undecodable:
        return not_utf8(undecodable)

    constant = _CONSTANT.search(raw, max(0, error.pos - 3))
    if constant is not None:
        return f"{constant[1].decode()} is not valid JSON. Use a number, or null."

    before = raw[: error.pos].rstrip()
    if before.endswith(b"}") and raw[error.pos : error.pos + 1] == b"{":
        return "Two objects stand on this line. Put each row on a line of its own."
    if "depth limit" in error.msg:
        return "Nested too deeply."
    if not raw:
        return "There is nothing between two commas."

    return f"Not valid JSON: {error.msg} (column {error.colno:,})."


def not_utf8(error: UnicodeDecodeError) -> str:
    """Why bytes are no text, for people."""
    return f"Not UTF-8 (byte {error.start + 1:,}). Save the file as UTF-8 and upload it again."


# Every key of an object matches, and now and then a piece of text does: as many matches as keys
# means that no key was given twice. Only where there are more does the slower reader look.
_KEY = re.compile(rb'"\s*:')
# A key whose colon may stand apart.
_SPACED = (b'" ', b'"\t', b'"\n', b'"\r')


def _may_repeat_a_key(raw: bytes, keys: int) -> bool:
    if any(map(raw.__contains__, _SPACED)):
        return len(_KEY.findall(raw)) != keys

    # As nearly everybody writes them, and much sooner counted.
    return raw.count(b'":') != keys


def _key_count(value: dict[str, Any]) -> int:
    """Keys of all objects in `value`. Called once a row: what holds none is not looked into."""
    count = 0
    inside: list[Iterable[Any]] = [value.values()]

    # No recursion: a row may be nested more deeply than Python calls.
    for values in inside:
        for item in values:
            if type(item) is dict:
                count += len(item)
                inside.append(item.values())
            elif type(item) is list:
                inside.append(item)

    return len(value) + count


def _repeated_key(raw: bytes) -> str:
    repeated: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                repeated.append(name)

            seen.add(name)

    try:
        json.loads(raw, object_pairs_hook=look)
    except (ValueError, RecursionError):
        return ""

    return repeated[0] if repeated else ""


def shown(raw: bytes) -> str:
    return raw[: RAW_CHARACTERS * 4].decode(errors="replace")[:RAW_CHARACTERS]
