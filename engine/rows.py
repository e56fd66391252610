"""Files of examples as a stream of rows. JSONL, JSON, CSV and Parquet; no training library.

What cannot be read is a row too, with its reason: rows read and rows reported add up to the rows of the file.
Memory is bounded: a line, a JSON object or a cell over ROW_LIMIT_BYTES is reported and passed over, not held.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from engine.sniff import BOM, FILE_TYPES, NOT_JSON_ROWS, WRAPPED_LIST, FileProblem, sniff_file_type

__all__ = [
    "FILE_TYPES",
    "ROW_LIMIT_BYTES",
    "FileProblem",
    "Mark",
    "Row",
    "json_row",
    "read_jsonl",
    "read_rows",
    "sniff_file_type",
]

ROW_LIMIT_BYTES = 8 << 20
CHUNK_BYTES = 1 << 20
RAW_CHARACTERS = 300
PARQUET_BATCH_ROWS = 64
# A few hundred bytes of Parquet can stand for a thousand times a thousand repetitions of one long text.
UNPACKED_LIMIT_BYTES = 1 << 30
UNPACKED_RATIO = 1000

DELIMITERS = ",;\t|"
# Bytes that are not UTF-8 become the first while a CSV is split into cells; the second stands for a line too long to
# hold. No text can hold either.
NOT_UTF8 = re.compile("[\udc80-\udcff]")
TOO_LONG_MARK = "\udfff"
TOO_LONG = f"Longer than {ROW_LIMIT_BYTES >> 20} MB. Split it into several rows, or shorten it."


class Row(NamedTuple):
    """`line`: line of the file for JSONL and CSV, row number for JSON and Parquet; from 1. `values` is None where the
    row cannot be read, with the reason in `problem` and its beginning in `raw`. `end`: bytes read so far; `last_line`:
    where a row of several lines ends, 0 for rows that end on `line`."""

    line: int
    values: dict[str, Any] | None
    problem: str = ""
    raw: str = ""
    end: int = 0
    last_line: int = 0


@dataclass(frozen=True)
class Mark:
    """A place between two rows where reading can go on: `rows` and `lines` of the file lie before byte `offset`."""

    rows: int = 0
    lines: int = 0
    offset: int = 0

    def after(self, row: Row, count: int = 1) -> Mark:
        """The place behind `row`, which is the `count`th from here."""
        return Mark(self.rows + count, row.last_line or row.line, row.end)


BEGINNING = Mark()


def read_rows(path: Path, file_type: str, start: Mark = BEGINNING) -> Iterator[Row]:
    """Every row behind `start` in file order; blank lines are none. Raises FileProblem where the file cannot be read
    any further."""
    read = {"jsonl": read_jsonl, "json": _read_json, "csv": _read_csv, "parquet": _read_parquet}[file_type]
    return read(path, start)


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines with their ends, the byte order mark taken off; None for one that is too long to hold."""
    at_start = stream.tell() == 0
    while line := stream.readline(ROW_LIMIT_BYTES + 1):
        if at_start:
            line, at_start = line.removeprefix(BOM), False
        if len(line) <= ROW_LIMIT_BYTES:
            yield line
            continue
        while not line.endswith(b"\n") and (line := stream.readline(CHUNK_BYTES)):
            pass
        yield None


def read_jsonl(path: Path, start: Mark = BEGINNING, end: int | None = None) -> Iterator[Row]:
    """As read_rows; `end`: the byte behind the line that is the last one to read."""
    with path.open("rb") as stream:
        stream.seek(start.offset)
        tell = stream.tell
        for number, line in enumerate(_lines(stream), start.lines + 1):
            if line is None:
                yield Row(number, None, TOO_LONG, end=tell())
            elif stripped := line.strip():
                yield json_row(number, stripped, tell())
            if end is not None and tell() >= end:
                return


def json_row(number: int, raw: bytes, end: int) -> Row:
    """The row that a line, or an element of a list, is: `raw` without white space around it."""
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return Row(number, None, _json_problem(raw, error), shown(raw), end)
    if not isinstance(values, dict):
        return Row(number, None, "Not an object: a row is written {…}.", shown(raw), end)
    if _may_repeat_a_key(raw, values) and (name := _repeated_key(raw)):
        return Row(number, None, f"The name {name[:80]!r} stands twice in the same object.", shown(raw), end)
    return Row(number, values, "", "", end)


def _json_problem(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        return f"Not UTF-8 (byte {wrong.start + 1:,})."
    if literal := re.search(rb"[:,\[]\s*(-?(?:NaN|Infinity))\b", raw[max(0, error.pos - 3) :]):
        return f"{literal[1].decode()} is not valid JSON. Use a number, or null."
    if "depth limit" in error.msg:
        return "Nested too deeply."
    if not raw:
        return "There is nothing between two commas."
    return f"Not valid JSON: {error.msg} (column {error.colno:,})."


# Every key of an object matches, and now and then a piece of text does: as many matches as keys means that no key
# was given twice. Only where there are more does the slower reader look.
_KEY = re.compile(rb'"\s*:')
# A key whose colon may stand apart.
_SPACED = (b'" ', b'"\t', b'"\n', b'"\r')


def _may_repeat_a_key(raw: bytes, values: dict[str, Any]) -> bool:
    keys = _key_count(values)
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
        repeated.extend(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]

    try:
        json.loads(raw, object_pairs_hook=look)
    except (ValueError, RecursionError):
        return ""
    return repeated[0] if repeated else ""


def shown(raw: bytes) -> str:
    return raw[: RAW_CHARACTERS * 4].decode(errors="replace")[:RAW_CHARACTERS]


def _read_json(path: Path, start: Mark) -> Iterator[Row]:
    with path.open("rb") as stream:
        offset, wrapped = _list_start(stream)
        stream.seek(start.offset or offset)
        number, objects = start.rows, bool(start.rows)
        for number, (raw, end) in enumerate(_elements(stream, start.rows), start.rows + 1):
            row = Row(number, None, TOO_LONG, end=end) if raw is None else json_row(number, raw, end)
            objects = objects or raw is None or raw.startswith(b"{")
            yield row
        if number and not objects:
            raise FileProblem(NOT_JSON_ROWS)
        if not wrapped and stream.read(CHUNK_BYTES).strip():
            raise FileProblem("There is more text after the end of the list. A JSON file holds one list of objects.")


def _list_start(stream: BinaryIO) -> tuple[int, bool]:
    """The byte behind the [ of the list of rows, and whether that list is a member of an object."""
    head = stream.read(CHUNK_BYTES)
    start = len(head) - len(head.removeprefix(BOM).lstrip())
    if head[start : start + 1] == b"[":
        return start + 1, False
    wrapped = WRAPPED_LIST.match(head, start)
    if wrapped is None:
        raise FileProblem(NOT_JSON_ROWS)
    return head.index(b"[", wrapped.end(1)) + 1, True


_STRING = re.compile(rb'"|\\.', re.DOTALL)
_STRUCTURE = re.compile(rb'["\[\]{},]')


def _elements(stream: BinaryIO, number: int) -> Iterator[tuple[bytes | None, int]]:
    """Elements behind the `number`th of a list, unparsed, with the bytes read; None for one that is too long to hold.

    Only brackets, commas and strings are looked at, so that one broken element does not end the reading. Leaves the
    stream behind the closing bracket. Raises FileProblem where that is missing.
    """
    buffer, base = b"", stream.tell()
    start = at = depth = 0
    in_string = too_long = False
    while True:
        match = (_STRING if in_string else _STRUCTURE).search(buffer, at)
        if match is None:
            # In a string a last backslash waits for the character that it escapes.
            at = max(at, len(buffer) - (in_string and buffer.endswith(b"\\")))
            if at - start > ROW_LIMIT_BYTES:
                too_long, start = True, at
            base, buffer, at, start = base + start, buffer[start:], at - start, 0
            if not (chunk := stream.read(CHUNK_BYTES)):
                raise FileProblem(
                    f"The list is not closed: the file ends within row {number + 1:,}. Was it cut off, or is a "
                    "quotation mark or bracket missing?"
                )
            buffer += chunk
            continue
        at = match.end()
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
            raw = buffer[start : at - 1].strip()
            too_long = too_long or len(raw) > ROW_LIMIT_BYTES
            if raw or too_long or token == b",":
                number += 1
                yield (None if too_long else raw), base + at
            start, too_long = at, False
            if token != b",":
                stream.seek(base + at)
                return


def _read_csv(path: Path, start: Mark) -> Iterator[Row]:
    csv.field_size_limit(ROW_LIMIT_BYTES)
    with path.open("rb") as stream:
        dialect: dict[str, Any] = {"delimiter": _delimiter(stream), "strict": True}
        reader = csv.reader(_decoded(stream), **dialect)
        header = _header(reader)
        before = 0
        if start.rows and header:
            stream.seek(start.offset)
            reader, before = csv.reader(_decoded(stream), **dialect), start.lines
        while header:
            number = before + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(number, None, _csv_problem(error), "", stream.tell(), before + reader.line_num)
                continue
            if not _is_blank(cells):
                yield _csv_row(number, header, cells, stream.tell(), before + reader.line_num)


def _decoded(stream: BinaryIO) -> Iterator[str]:
    for line in _lines(stream):
        yield TOO_LONG_MARK if line is None else line.decode(errors="surrogateescape")


def _is_blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _delimiter(stream: BinaryIO) -> str:
    """The one of DELIMITERS that stands most often outside quotes in the first line."""
    first = stream.readline(CHUNK_BYTES).decode(errors="replace")
    stream.seek(0)
    bare = re.sub(r'"[^"]*"', "", first)
    return max(DELIMITERS, key=bare.count)


def _header(reader: Iterator[list[str]]) -> list[str]:
    """The names in the first line that is not blank; a column without one is numbered. [] for a file without lines."""
    try:
        cells = next((cells for cells in reader if not _is_blank(cells)), [])
    except csv.Error as error:
        raise FileProblem(f"The first line, which names the columns, cannot be read: {error}.") from error
    names = [cell.strip() or f"column_{index}" for index, cell in enumerate(cells, 1)]
    if any(NOT_UTF8.search(name) or TOO_LONG_MARK in name for name in names):
        raise FileProblem("The first line, which names the columns, is too long or not UTF-8. Save the file as UTF-8.")
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise FileProblem(f"Two columns are named {twice[:80]!r}. Give every column a name of its own.")
    return names


def _csv_problem(error: csv.Error) -> str:
    text = str(error)
    if "field larger" in text:
        return f"A cell is longer than {ROW_LIMIT_BYTES >> 20} MB. Is a quotation mark not closed?"
    if "unexpected end" in text:
        return "A quotation mark is opened and never closed."
    if "expected after" in text:
        return 'There is text right after a closing quotation mark. Write a quotation mark within a cell twice: "".'
    return f"Not valid CSV: {text}."


def _csv_row(number: int, header: list[str], cells: list[str], end: int, last_line: int) -> Row:
    if any(TOO_LONG_MARK in cell for cell in cells):
        return Row(number, None, TOO_LONG, "", end, last_line)
    text = shown(",".join(cells)[:RAW_CHARACTERS].encode(errors="surrogateescape"))
    if any(NOT_UTF8.search(cell) for cell in cells):
        return Row(number, None, "Not UTF-8.", text, end, last_line)
    if len(cells) != len(header):
        problem = f"{len(cells):,} cells where the first line names {len(header):,} columns."
        return Row(number, None, problem, text, end, last_line)
    return Row(number, dict(zip(header, cells, strict=True)), end=end, last_line=last_line)


def _read_parquet(path: Path, start: Mark) -> Iterator[Row]:
    # Here and not above: whoever reads text files does without a hundred megabytes of library.
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    size = path.stat().st_size
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            total = max(1, file.metadata.num_rows)
            number = group = unpacked = 0
            while group < file.num_row_groups and number + file.metadata.row_group(group).num_rows <= start.rows:
                number += file.metadata.row_group(group).num_rows
                group += 1
            groups = list(range(group, file.num_row_groups))
            for batch in file.iter_batches(PARQUET_BATCH_ROWS, groups, use_threads=False):
                known = min(batch.num_rows, max(0, start.rows - number))
                for index, values in enumerate(batch.slice(known).to_pylist(), number + known + 1):
                    unpacked += _weight(values)
                    if unpacked > max(UNPACKED_LIMIT_BYTES, UNPACKED_RATIO * size):
                        raise FileProblem("The file unpacks to more than a thousand times its size, so it is not read.")
                    yield Row(index, values, end=size * index // total)
                number += batch.num_rows
    except (MemoryError, FileProblem):
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise FileProblem(f"The Parquet file cannot be read: {str(error).splitlines()[0][:200]}") from error


def _weight(value: Any) -> int:
    """About how many bytes a value holds; Arrow's own figure counts a repeated text once."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    return sum(map(_weight, value)) if isinstance(value, list) else 8
