"""Rows of a CSV file, whatever separates its cells. No training library."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from engine.rows.bounds import columns_check
from engine.rows.file_type import BOM, FileProblem
from engine.rows.lines import (
    CHUNK_BYTES,
    RAW_CHARACTERS,
    ROW_LIMIT_BYTES,
    TOO_LONG,
    FilePosition,
    Row,
    ends_with_returns,
    lines_of,
    open_lines,
    shown,
)

DELIMITERS = ",;\t|"
# Excel writes the separator into a line of its own, in front of the names.
SEPARATOR_LINE = re.compile(rb'"?sep=([,;\t|])"?\s*\Z', re.IGNORECASE)
# Bytes that are not UTF-8 become the first while a CSV is split into cells; the second stands for a
# line too long to hold. No text can hold either.
NOT_UTF8 = re.compile("[\udc80-\udcff]")
TOO_LONG_MARK = "\udfff"


def read_csv(path: Path, start: FilePosition) -> Iterator[Row]:
    csv.field_size_limit(ROW_LIMIT_BYTES)
    notes = ("carriage_return",) if ends_with_returns(path) else ()
    with open_lines(path) as stream:
        delimiter, before = _delimiter(stream)
        first_notes = (*notes, "separator_line") if before else notes
        dialect: dict[str, Any] = {"delimiter": delimiter, "strict": True}
        reader = csv.reader(_decoded(stream), **dialect)
        header = _header(reader)
        if start.rows and header:
            stream.seek(start.offset)
            reader, before, first_notes = (
                csv.reader(_decoded(stream), **dialect),
                start.lines,
                notes,
            )

        while header:
            number = before + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(
                    number, None, _csv_problem(error), "", stream.tell(), before + reader.line_num
                )
                continue

            if not _is_blank(cells):
                row = _csv_row(number, header, cells, stream.tell(), before + reader.line_num)
                yield row._replace(notes=first_notes) if first_notes else row
                first_notes = notes


def _decoded(stream: BinaryIO) -> Iterator[str]:
    for line in lines_of(stream):
        yield TOO_LONG_MARK if line is None else line.decode(errors="surrogateescape")


def _is_blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _delimiter(stream: BinaryIO) -> tuple[str, int]:
    """(what separates cells, lines that say no more than that): the one of DELIMITERS that a first
    line sep= names, else the one that stands most often outside quotes in the first line. Leaves
    the stream behind those lines."""
    line = stream.readline(CHUNK_BYTES)
    if named := SEPARATOR_LINE.match(line.removeprefix(BOM)):
        return named[1].decode(), 1

    stream.seek(0)
    bare = re.sub(r'"[^"]*"', "", line.decode(errors="replace"))
    return max(DELIMITERS, key=bare.count), 0


def _header(reader: Iterator[list[str]]) -> list[str]:
    """The names in the first line that is not blank; a column without one is numbered. [] for a
    file without lines."""
    try:
        cells = next((cells for cells in reader if not _is_blank(cells)), [])
    except csv.Error as error:
        raise FileProblem(
            f"The first line, which names the columns, cannot be read: {error}."
        ) from error

    columns_check(len(cells))
    names = [cell.strip() or f"column_{index}" for index, cell in enumerate(cells, 1)]
    if any(NOT_UTF8.search(name) or TOO_LONG_MARK in name for name in names):
        raise FileProblem(
            "The first line, which names the columns, is too long or not UTF-8. Save the file as "
            "UTF-8."
        )

    if twice := next((name for name, count in Counter(names).items() if count > 1), ""):
        raise FileProblem(
            f"Two columns are named {twice[:80]!r}. Give every column a name of its own."
        )

    return names


def _csv_problem(error: csv.Error) -> str:
    text = str(error)
    if "field larger" in text:
        return f"A cell is longer than {ROW_LIMIT_BYTES >> 20} MB. Is a quotation mark not closed?"
    if "unexpected end" in text:
        return "A quotation mark is opened and never closed."

    if "expected after" in text:
        return (
            "There is text right after a closing quotation mark. Write a quotation mark within "
            'a cell twice: "".'
        )

    return f"Not valid CSV: {text}."


def _csv_row(number: int, header: list[str], cells: list[str], end: int, last_line: int) -> Row:
    if any(TOO_LONG_MARK in cell for cell in cells):
        return Row(number, None, TOO_LONG, "", end, last_line)

    problem = ""
    if any(NOT_UTF8.search(cell) for cell in cells):
        problem = "Not UTF-8. Save the file as UTF-8 and upload it again."
    elif len(cells) != len(header):
        problem = f"{len(cells):,} cells where the first line names {len(header):,} columns."

    if problem:
        beginning = ",".join(cells)[:RAW_CHARACTERS]
        raw = shown(beginning.encode(errors="surrogateescape"))
        return Row(number, None, problem, raw, end, last_line)

    values = dict(zip(header, cells, strict=True))
    return Row(number, values, end=end, last_line=last_line)
