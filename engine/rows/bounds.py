"""Limits on what a file may claim to hold, checked before a library allocates memory for it.
Standard library only.

A claim costs its sender a few bytes and its reader memory or hours: every reader of uploaded files
checks here first.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.rows.file_type import FileProblem

# Wide enough for a table of embeddings; no row to learn from has so many columns.
MOST_COLUMNS = 5_000
# The densest honest Parquet files take some bytes a row. A file with more rows than bytes says the
# same thing over and over.
MOST_ROWS_A_BYTE = 1
ROWS_ALWAYS = 100_000
# A few hundred bytes of Parquet can stand for a thousand times a thousand repetitions of a text.
UNPACKED_LIMIT_BYTES = 256 << 20
UNPACKED_RATIO = 1000
# Footers of real files have a few megabytes; a library makes some times as much of one.
PARQUET_FOOTER_BYTES = 64 << 20
MOST_ROW_GROUPS = 100_000

TOO_MANY_COLUMNS = (
    "The file has {count:,} columns, and at most {most:,} can be read. Keep those to learn from "
    "and leave out the others."
)
ROW_TOO_WIDE = f"This row has more than {MOST_COLUMNS:,} columns. Keep those to learn from."
REPEATED_ROWS = (
    "The file claims {rows:,} rows in {size:,} bytes, so nearly all of them are the same. Remove "
    "the repeated rows, then upload it again."
)
UNPACKS = "The file unpacks to more than a thousand times its size, so it is not read."
CUT_OFF = (
    "The Parquet file cannot be read: its index is not whole. Was the upload or download cut off?"
)
FOOTER = "The Parquet file is damaged: its index is larger than any real file's. Write it again."


def columns_check(count: int) -> None:
    """Raises FileProblem for a table that is too wide."""
    if count > MOST_COLUMNS:
        raise FileProblem(TOO_MANY_COLUMNS.format(count=count, most=MOST_COLUMNS))


def parquet_footer_check(path: Path) -> None:
    """Raises FileProblem where the index at the file's end is larger than a library should be
    given. To be called before any library opens the file."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 8))
        length = int.from_bytes(stream.read(4), "little")

    if length > size:
        raise FileProblem(CUT_OFF)
    if length > PARQUET_FOOTER_BYTES:
        raise FileProblem(FOOTER)


def parquet_check(*, size: int, rows: int, columns: int, row_groups: int, unpacked: int) -> None:
    """Raises FileProblem where a Parquet file's index claims more than a file of `size` bytes
    should hold. unpacked: bytes of all columns as the index has them."""
    columns_check(columns)

    if rows > max(ROWS_ALWAYS, MOST_ROWS_A_BYTE * size):
        raise FileProblem(REPEATED_ROWS.format(rows=rows, size=size))
    if row_groups > MOST_ROW_GROUPS:
        raise FileProblem(FOOTER)

    unpacked_check(size, unpacked)


def unpacked_check(size: int, unpacked: int) -> None:
    """Raises FileProblem where `size` bytes of a file have become too many."""
    if unpacked > max(UNPACKED_LIMIT_BYTES, UNPACKED_RATIO * size):
        raise FileProblem(UNPACKS)


def approximate_bytes(value: object) -> int:
    """About how many bytes a value of a row holds. Of texts and lists that are repeated each
    counts."""
    total = 0
    inside: list[object] = [value]

    # No recursion: a row may be nested more deeply than Python calls.
    while inside:
        part = inside.pop()
        if isinstance(part, str | bytes):
            total += len(part)
        elif isinstance(part, dict):
            inside.extend(part.values())
        elif isinstance(part, list):
            inside.extend(part)
        else:
            total += 8

    return total
