"""Rows of a plain text: its paragraphs, joined until a row has a good length. No training library.

A model whose training continues on books and documents learns from all of them, row after row. A
row for each paragraph would end the text after every few lines; a row for the whole file would be
cut at the token limit, and nothing behind that be learned. So paragraphs are joined to rows that
keep to the usual limits, and are themselves taken apart only where one is far too long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from engine.rows.file_type import BOM
from engine.rows.lines import (
    ROW_LIMIT_BYTES,
    FilePosition,
    Row,
    ends_with_returns,
    lines_of,
    not_utf8,
    open_lines,
    shown,
)
from engine.rows.values import is_blank

# About 500 tokens of English, and not many more of any other language: what the first paragraph's
# end behind it ends.
ROW_BYTES = 2_000
# A row in which no paragraph ends ends with a line; a line that is longer, with a sentence or a
# word.
LONGEST_ROW_BYTES = 3_000
# What stands between two documents of one file, as a line of its own or in front of the next one's
# first line.
DOCUMENT_END = re.compile(rb"\s*(?:<\|endoftext\|>|</s>)\s*\Z")
PAGE_BREAK = b"\x0c"
_SENTENCE_END = re.compile(rb"[.!?][\"')\]]*\s|\xe3\x80\x82")
NOTES = ("paragraphs",)
A_LINE_TOO_LONG = f"A line longer than {ROW_LIMIT_BYTES >> 20} MB. Break it into paragraphs."


def read_paragraphs(path: Path, start: FilePosition) -> Iterator[Row]:
    """Each row {"text"}; its line is that on which it begins."""
    notes = (*NOTES, "carriage_return") if ends_with_returns(path) else NOTES
    with open_lines(path) as stream:
        has_mark = stream.read(len(BOM)) == BOM
        begin = start.offset or (len(BOM) if has_mark else 0)
        stream.seek(begin)

        number = start.lines
        pending = _PendingLines(begin, number + 1, notes)

        for line in lines_of(stream):
            number += 1
            if line is None:
                yield from pending.row()
                end = stream.tell()
                yield Row(number, None, A_LINE_TOO_LONG, end=end, last_line=number)
                pending = _PendingLines(end, number + 1, notes)
                continue

            if DOCUMENT_END.match(line):
                yield from pending.row()
                pending = _PendingLines(stream.tell(), number + 1, notes)
                continue

            if line.startswith(PAGE_BREAK):
                yield from pending.row()
                line = line.removeprefix(PAGE_BREAK)
                pending = _PendingLines(stream.tell() - len(line), number, notes)

            pending.add(line)
            yield from pending.long_rows()

            is_paragraph_end = not line.strip()
            if is_paragraph_end and pending.size >= ROW_BYTES:
                yield from pending.row()

        yield from pending.row()


class _PendingLines:
    """Lines of which no row is made yet. Where they begin depends on nothing in front of them, so
    that reading can resume behind any row. begin: their first byte in the file; line: their first
    line."""

    def __init__(self, begin: int, line: int, notes: tuple[str, ...]) -> None:
        self.begin = begin
        self.line = line
        self.notes = notes
        self.pieces: list[bytes] = []
        self.size = 0

    def add(self, line: bytes) -> None:
        self.pieces.append(line)
        self.size += len(line)

    def row(self) -> Iterator[Row]:
        """All that is pending, as a row; none of blank lines alone."""
        yield from self._row(b"".join(self.pieces))
        self.pieces = []
        self.size = 0

    def long_rows(self) -> Iterator[Row]:
        """Rows of what is too long for one; the rest stays."""
        if self.size <= LONGEST_ROW_BYTES:
            return

        data = b"".join(self.pieces)
        position = 0
        while len(data) - position > LONGEST_ROW_BYTES:
            cut = _cut(data, position)
            yield from self._row(data[position:cut])
            position = cut

        rest = data[position:]
        self.pieces = [rest]
        self.size = len(rest)

    def _row(self, raw: bytes) -> Iterator[Row]:
        line = self.line
        self.begin += len(raw)
        self.line += raw.count(b"\n")
        # A piece of the first line leaves no line behind it, which for a row is not to say nothing:
        # 0 does that.
        last_line = self.line - 1 or -1

        try:
            text = raw.decode().strip("\r\n")
        except UnicodeDecodeError as error:
            yield Row(line, None, not_utf8(error), shown(raw), self.begin, last_line)
            return

        if not is_blank(text):
            yield Row(line, {"text": text}, "", "", self.begin, last_line, self.notes)


def _cut(raw: bytes, start: int) -> int:
    """Where to cut what begins at `start`: behind a line, a sentence or a word, if need be within
    one."""
    low, high = start + ROW_BYTES // 2, start + LONGEST_ROW_BYTES
    line = raw.rfind(b"\n", low, high)
    if line >= 0:
        return line + 1

    sentences = [match.end() for match in _SENTENCE_END.finditer(raw, low, high)]
    if sentences:
        return sentences[-1]

    word = raw.rfind(b" ", low, high)
    if word >= 0:
        return word + 1

    # Not within a character: its later bytes are 10…… in binary, three at most.
    for cut in range(high, high - 4, -1):
        if raw[cut] & 0xC0 != 0x80:
            return cut

    return high
