"""Rows of a plain text: its paragraphs, joined until a row has a good length. No training library.

A model that goes on learning from books and documents learns from all of them, row after row. A row
for each paragraph would end the text after every few lines; a row for the whole file would be cut
at the token limit, and nothing behind that be learned. So paragraphs are joined to rows that keep
to the usual limits, and are themselves taken apart only where one is far too long.
"""

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
        begin = start.offset or (len(BOM) if stream.read(len(BOM)) == BOM else 0)
        stream.seek(begin)
        held, number = _Held(begin, start.lines + 1, notes), start.lines

        for line in lines_of(stream):
            number += 1
            if line is None:
                yield from held.row()
                yield Row(number, None, A_LINE_TOO_LONG, end=stream.tell(), last_line=number)
                held = _Held(stream.tell(), number + 1, notes)
            elif DOCUMENT_END.match(line):
                yield from held.row()
                held = _Held(stream.tell(), number + 1, notes)
            else:
                if line.startswith(PAGE_BREAK):
                    yield from held.row()
                    line = line.removeprefix(PAGE_BREAK)
                    held = _Held(stream.tell() - len(line), number, notes)

                held.add(line)
                yield from held.long_rows()

                if not line.strip() and held.size >= ROW_BYTES:
                    yield from held.row()

        yield from held.row()


class _Held:
    """Lines of which no row is made yet. Where they begin depends on nothing in front of them, so
    that reading can go on behind any row. begin: their first byte in the file; line: their first
    line."""

    def __init__(self, begin: int, line: int, notes: tuple[str, ...]) -> None:
        self.begin, self.line, self.notes = begin, line, notes
        self.pieces: list[bytes] = []
        self.size = 0

    def add(self, line: bytes) -> None:
        self.pieces.append(line)
        self.size += len(line)

    def row(self) -> Iterator[Row]:
        """All that is held, as a row; none of blank lines alone."""
        yield from self._row(b"".join(self.pieces))
        self.pieces, self.size = [], 0

    def long_rows(self) -> Iterator[Row]:
        """Rows of what is too long for one; the rest stays."""
        if self.size <= LONGEST_ROW_BYTES:
            return

        data, at = b"".join(self.pieces), 0
        while len(data) - at > LONGEST_ROW_BYTES:
            cut = _cut(data, at)
            yield from self._row(data[at:cut])
            at = cut

        self.pieces, self.size = [data[at:]], len(data) - at

    def _row(self, raw: bytes) -> Iterator[Row]:
        line = self.line
        self.begin += len(raw)
        self.line += raw.count(b"\n")
        # A piece of the first line leaves no line behind it, which for a row is not to say nothing:
        # 0 does that.
        whole_lines = self.line - 1 or -1

        try:
            text = raw.decode().strip("\r\n")
        except UnicodeDecodeError as wrong:
            reason = f"Not UTF-8 (byte {wrong.start + 1:,}). Save the file as UTF-8."
            yield Row(line, None, reason, shown(raw), self.begin, whole_lines)
            return

        if not is_blank(text):
            yield Row(line, {"text": text}, "", "", self.begin, whole_lines, self.notes)


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
