"""Rows of a JSONL file, some thousands at a time, looked at a column at a time.

`to_example` decides about one row after the other. For nearly all rows of nearly all files whole
columns give the same result, without an object for each row, and many times as fast: a `Block`
knows the rows that are plainly good, and leaves every other one to `to_example`. Where
anything about a block is unusual there is no block, but rows."""

from __future__ import annotations

import io
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.json as pj  # type: ignore[import-untyped]
from numpy.typing import NDArray

from engine.doctor.signs import SCRIPT_CHARACTERS, SIGNS
from engine.rows.column_map import columns_read
from engine.rows.examples import Example
from engine.rows.hash_set import SEPARATOR, text_hash
from engine.rows.lines import skip_line
from engine.rows.read import (
    ROW_LIMIT_BYTES,
    FilePosition,
    Row,
    ends_with_returns,
    json_row,
    read_jsonl,
)
from engine.vectorised.columns import (
    Flags,
    Texts,
    bytes_of,
    flags_of,
    indices_of,
    schema_of,
    texts_of,
)

FIRST_BYTES = 256 << 10
BLOCK_BYTES = 2 << 20
# Blocks that are worked on while the reader has one. Each holds some 10 MB meanwhile.
AT_ONCE = min(4, os.cpu_count() or 1)
NEWLINE, RETURN, OPEN, CLOSE = b"\n\r{}"
# A parser that builds columns dies of values nested twenty times as deeply.
BRACKETS = 1000
# The columns are learned from so many rows, or from those that are so many bytes.
SAMPLE_ROWS, SAMPLE_BYTES = 100, 64 << 10
# So many columns a block may have, those within others included, and so many values, empty ones
# too.
FIELDS, CELLS = 300, 4_000_000
ANY_SIGN = "|".join(map(re.escape, SIGNS))
# No text that is read a block at a time holds what stands between two of them.
ESCAPED_SEPARATOR = re.compile(rb"\\u001[eE]")


@dataclass
class Block:
    """Some thousands of rows.

    start: the position in front of its first row.
    begins, ends: (rows,) of each row in `data`, its line break left out.
    kinds: {column: type of its values}, NoneType where all are null or missing.
    texts: of the rows.
    row_hashes, prompt_hashes: (rows,) of engine.rows.hash_set, for what a known row says and asks.
    notable: (rows,) whether the text has to be looked at.
    has_letter: (rows,) whether the beginning of an ASCII text holds a letter.
    """

    start: FilePosition
    data: bytes
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    table: pa.Table
    kinds: dict[str, type]
    texts: Texts
    row_hashes: NDArray[np.uint64]
    prompt_hashes: NDArray[np.uint64]
    notable: Flags
    has_letter: Flags

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def known(self) -> Flags:
        return self.texts.known

    @property
    def unused(self) -> dict[str, Flags]:
        """{field: (rows,)} whether a field that is not used has content, of rows that are known."""
        return self.texts.unused

    @property
    def is_answered(self) -> bool:
        """Whether its rows end with an answer."""
        return self.texts.answer_bytes is not None

    def line(self, index: int) -> int:
        return self.start.lines + index + 1

    def end(self, index: int) -> int:
        """Bytes of the file up to the row's end, its line break included."""
        is_last = index + 1 == len(self)
        end = len(self.data) if is_last else int(self.begins[index + 1])
        return self.start.offset + end

    def row(self, index: int) -> Row:
        return json_row(self.line(index), self._raw(index), self.end(index))

    def rows(self) -> Iterator[Row]:
        return map(self.row, range(len(self)))

    def others(self) -> list[int]:
        """The rows of which nothing is known."""
        indices: list[int] = np.flatnonzero(~self.known).tolist()
        return indices

    def example(self, index: int) -> Example:
        """The example that a known row is."""
        texts = self.texts.joined[index].as_py().split(SEPARATOR)

        if not self.texts.turns:
            return Example(text=texts[0])

        turns = []
        if self.texts.system[index]:
            turns.append({"role": "system", "content": texts.pop(0)})

        for place, text in enumerate(texts):
            role = "assistant" if place % 2 else "user"
            turns.append({"role": role, "content": text})

        return Example(messages=turns)

    def has_null(self, name: str) -> bool:
        """Whether the column is null in some row, and not only missing."""
        if not self.table[name].null_count:
            return False

        quoted = orjson.dumps(name)
        # Another way to write the name needs one of these.
        is_plain = b"\\" not in quoted and b"/" not in quoted and b"\\u" not in self.data
        if is_plain and quoted not in self.data:
            # A column that the format knows and the file does not: said at once.
            return False

        if is_plain and not re.search(re.escape(quoted) + rb"\s*:\s*null", self.data):
            return False

        empty = np.flatnonzero(flags_of(self.table[name].chunk(0).is_null()))
        return any(name in orjson.loads(self._raw(index)) for index in empty.tolist())

    def _raw(self, index: int) -> bytes:
        return self.data[self.begins[index] : self.ends[index]]


def read_blocks(path: Path, format: str, column_map: Mapping[str, str]) -> Iterator[Block | Row]:
    """All rows of a JSONL file in file order, in blocks where that can be. The first ones never
    are: from them whoever asks learns what columns there are."""
    columns = columns_read(format, column_map)
    schema = schema_of(format, columns)
    if schema is None or ends_with_returns(path):
        yield from read_jsonl(path)
        return

    waiting: deque[tuple[_Chunk, Future[Block | None]]] = deque()
    with path.open("rb") as stream, ThreadPoolExecutor(AT_ONCE) as pool:
        for chunk in _chunks(stream):
            if chunk.start.offset == 0:
                yield from read_jsonl(path, end=chunk.end)
                continue

            waiting.append((chunk, pool.submit(_block, chunk, format, columns, schema)))
            if len(waiting) > AT_ONCE:
                yield from _result(path, *waiting.popleft())

        while waiting:
            yield from _result(path, *waiting.popleft())


@dataclass
class _Chunk:
    """Whole lines behind `start` up to byte `end`; `data` is None where one of them is too long to
    hold."""

    start: FilePosition
    end: int
    data: bytes | None


def _chunks(stream: BinaryIO) -> Iterator[_Chunk]:
    start = FilePosition()
    while data := stream.read(BLOCK_BYTES if start.offset else FIRST_BYTES):
        # The line that the block cuts in two.
        rest = b"" if data.endswith(b"\n") else stream.readline(ROW_LIMIT_BYTES + 1)
        is_held = len(rest) <= ROW_LIMIT_BYTES
        if not is_held:
            rest = skip_line(stream, rest)

        lines = start.lines + data.count(b"\n") + rest.endswith(b"\n")
        end = stream.tell()

        yield _Chunk(start, end, data + rest if is_held else None)
        start = FilePosition(0, lines, end)


def _result(path: Path, chunk: _Chunk, future: Future[Block | None]) -> Iterator[Block | Row]:
    try:
        block = future.result()
    except MemoryError:
        block = None

    if block is not None:
        yield block
    else:
        yield from read_jsonl(path, chunk.start, chunk.end)


def _block(
    chunk: _Chunk, format: str, columns: Mapping[str, str], schema: pa.Schema
) -> Block | None:
    """The block of a chunk about which nothing is unusual."""
    data = chunk.data
    if data is None:
        return None

    lines = _lines(data)
    if lines is None:
        return None
    if b"\\u001" in data and ESCAPED_SEPARATOR.search(data):
        return None

    table = _table(data, *lines, schema)
    if table is None:
        return None

    texts = texts_of(table, format, columns)
    if texts is None:
        return None

    row_hashes, prompt_hashes = _hashes(texts)
    is_ascii = flags_of(pc.string_is_ascii(texts.joined))
    has_sign = flags_of(pc.match_substring_regex(texts.joined, ANY_SIGN, ignore_case=True))

    kinds = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kinds[name] = _kind(column)

    return Block(
        chunk.start,
        data,
        *lines,
        table,
        kinds,
        texts,
        row_hashes,
        prompt_hashes,
        notable=has_sign | ~is_ascii,
        has_letter=_has_letter(texts.joined, is_ascii),
    )


def _hashes(texts: Texts) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """((rows,) hashes of what each row says, (rows,) hashes of what it asks)."""
    offsets, _ = bytes_of(texts.joined)
    begins = offsets[:-1]
    ends = offsets[1:]
    data = memoryview(texts.joined.buffers()[2] or b"")
    seeds = texts.system.tolist()

    row_hashes = _slice_hashes(data, begins, ends, seeds)
    if texts.answer_bytes is None:
        return row_hashes, row_hashes

    # In front of the answer stands one separator. Of rows that are not known the lengths mean
    # nothing.
    prompt_ends = np.maximum(begins, ends - texts.answer_bytes - 1)
    return row_hashes, _slice_hashes(data, begins, prompt_ends, seeds)


def _lines(data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Where the lines begin and end, if each is {…}, in UTF-8, and neither too long nor nested too
    deeply."""
    buffer = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(buffer == NEWLINE)
    ends = breaks if data.endswith(b"\n") else np.append(breaks, len(data))
    begins = np.append(0, breaks + 1)[: len(ends)]

    if not (ends > begins).all():
        return None
    if (ends - begins).max() >= ROW_LIMIT_BYTES:
        return None

    ends = ends - (buffer[ends - 1] == RETURN)
    if not (ends > begins).all():
        return None

    is_object = (buffer[begins] == OPEN) & (buffer[ends - 1] == CLOSE)
    if not is_object.all() or not _is_utf8(data):
        return None

    # Only a long line can hold so many brackets.
    for index in np.flatnonzero(ends - begins > BRACKETS).tolist():
        begin = int(begins[index])
        end = int(ends[index])
        brackets = data.count(b"[", begin, end) + data.count(b"{", begin, end)

        if brackets > BRACKETS:
            try:
                orjson.loads(data[begin:end])
            except orjson.JSONDecodeError:
                return None

    return begins, ends


def _is_utf8(data: bytes) -> bool:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            return False

    return True


def _table(
    data: bytes, begins: NDArray[np.int64], ends: NDArray[np.int64], schema: pa.Schema
) -> pa.Table | None:
    """The rows, one for each line, in columns of one chunk each; None where they are not of one
    kind."""
    try:
        whole_schema = _schema(data, begins, ends, schema)
        if whole_schema is None:
            return None

        table = _parsed(data, whole_schema, "error")
    except pa.ArrowException:
        return None

    # Two objects on one line are two rows here.
    if table.num_rows != len(begins):
        return None

    for column in table.columns:
        if column.num_chunks != 1 or not _is_finite(column):
            return None

    return table


def _schema(
    data: bytes, begins: NDArray[np.int64], ends: NDArray[np.int64], schema: pa.Schema
) -> pa.Schema | None:
    """All columns, as a few rows from all over the block have them. Of all rows at once it would
    not be safe to ask: if each has a name of its own, a column for each is more than memory
    holds."""
    spread = np.linspace(0, len(begins) - 1, SAMPLE_ROWS)
    picked = np.unique(spread.astype(int))
    fits = np.cumsum(ends[picked] - begins[picked]) <= SAMPLE_BYTES
    sample = b"\n".join(data[begins[index] : ends[index]] for index in picked[fits])
    if not sample:
        return None

    inferred = _parsed(sample, schema, "infer").schema
    fields = _field_count(inferred)
    if fields > FIELDS or fields * len(begins) > CELLS:
        return None

    return pa.schema([(field.name, _widened(field.type)) for field in inferred])


def _parsed(data: bytes, schema: pa.Schema, unexpected: str) -> pa.Table:
    return pj.read_json(
        io.BytesIO(data),
        pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
    )


def _widened(type_: pa.DataType) -> pa.DataType:
    """The type that everything of the same JSON type fits: any number, and a text that does not
    look like a date."""
    if pa.types.is_integer(type_):
        return pa.float64()
    if pa.types.is_temporal(type_):
        return pa.string()
    if pa.types.is_list(type_):
        return pa.list_(_widened(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, _widened(field.type)) for field in type_])

    return type_


def _field_count(schema: pa.Schema | pa.DataType) -> int:
    """Fields of a schema, with those inside of others."""
    count = 0
    pending = [schema]

    for each in pending:
        if isinstance(each, pa.Schema) or pa.types.is_struct(each):
            pending += [field.type for field in each]
        elif pa.types.is_list(each):
            pending.append(each.value_type)

        count += 1

    return count


def _is_finite(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether its numbers are some that JSON can write."""
    if isinstance(column, pa.ChunkedArray):
        return all(map(_is_finite, column.chunks))

    if pa.types.is_floating(column.type):
        return pc.all(pc.is_finite(column)).as_py() is not False
    if pa.types.is_list(column.type):
        return _is_finite(column.values)
    if pa.types.is_struct(column.type):
        return all(map(_is_finite, column.flatten()))

    return True


def _kind(column: pa.ChunkedArray) -> type:
    """The type of its values as JSON has them, NoneType where all are null or missing."""
    if column.null_count == len(column):
        return type(None)
    if pa.types.is_boolean(column.type):
        return bool
    if pa.types.is_floating(column.type):
        return float
    if pa.types.is_list(column.type):
        return list

    return dict if pa.types.is_struct(column.type) else str


def _slice_hashes(
    data: memoryview, begins: Any, ends: Any, seeds: list[bool]
) -> NDArray[np.uint64]:
    # Without a line of Python for each row: there are millions of them, and one thread at a time
    # runs Python.
    slices = map(slice, begins.tolist(), ends.tolist())
    parts = map(data.__getitem__, slices)
    return np.fromiter(map(text_hash, parts, seeds), np.uint64, len(seeds))


def _has_letter(joined: pa.StringArray, is_ascii: Flags) -> Flags:
    """(rows,) of ASCII texts, whether there is a letter among the first characters. Of most the
    first one tells."""
    offsets, data = bytes_of(joined)
    begins = offsets[:-1]
    has_letter = is_ascii & (offsets[1:] > begins)

    # In small letters.
    first = data[begins[has_letter]] | 0x20
    is_letter = (first >= ord("a")) & (first <= ord("z"))
    candidates = np.flatnonzero(has_letter)[~is_letter]

    if len(candidates):
        few = joined.take(indices_of(candidates)).cast(pa.binary())
        beginnings = pc.binary_slice(few, 0, SCRIPT_CHARACTERS)
        has_letter[candidates] = flags_of(pc.match_substring_regex(beginnings, "[A-Za-z]"))

    return has_letter
