"""Files of examples as a stream of rows. JSONL, JSON, CSV, Parquet and plain text; no training
library.

What cannot be read is a row too, with its reason: rows read and rows reported add up to the rows of
the file. Memory is bounded: a line, a JSON object or a cell over ROW_LIMIT_BYTES is reported and
passed over, not held."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.rows.bounds import (
    MOST_ROW_GROUPS,
    approximate_bytes,
    parquet_check,
    parquet_footer_check,
    unpacked_check,
)
from engine.rows.csv_rows import read_csv
from engine.rows.file_type import FILE_TYPES, FileProblem, detect_file_type
from engine.rows.json_lists import read_json
from engine.rows.lines import (
    FILE_START,
    ROW_LIMIT_BYTES,
    TOO_LONG,
    FilePosition,
    Row,
    ends_with_returns,
    json_row,
    lines_of,
    open_lines,
)
from engine.rows.paragraphs import read_paragraphs

__all__ = [
    "FILE_TYPES",
    "ROW_LIMIT_BYTES",
    "FilePosition",
    "FileProblem",
    "Row",
    "detect_file_type",
    "ends_with_returns",
    "json_row",
    "read_jsonl",
    "read_rows",
]

PARQUET_BATCH_ROWS = 64


def read_rows(path: Path, file_type: str, start: FilePosition = FILE_START) -> Iterator[Row]:
    """Every row behind `start` in file order; blank lines are none. Raises FileProblem where the
    file cannot be read any further."""
    readers = {
        "jsonl": read_jsonl,
        "json": read_json,
        "csv": read_csv,
        "parquet": _read_parquet,
        "txt": read_paragraphs,
    }

    return readers[file_type](path, start)


def read_jsonl(
    path: Path, start: FilePosition = FILE_START, end: int | None = None
) -> Iterator[Row]:
    """Every row behind `start` up to byte `end`, which is the end of a line; None for all."""
    with_returns = ends_with_returns(path)
    with open_lines(path) as stream:
        stream.seek(start.offset)
        for number, line in enumerate(lines_of(stream), start.lines + 1):
            position = stream.tell()
            stripped = line.strip() if line is not None else b""

            if line is None:
                yield Row(number, None, TOO_LONG, end=position)
            elif stripped:
                row = json_row(number, stripped, position)
                if with_returns:
                    row = row._replace(notes=(*row.notes, "carriage_return"))

                yield row

            if end is not None and position >= end:
                return


def _read_parquet(path: Path, start: FilePosition) -> Iterator[Row]:
    # Here and not above: whoever reads text files does without a hundred megabytes of library.
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    size = path.stat().st_size
    parquet_footer_check(path)

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            _claims_check(size, file.metadata)
            total = max(1, file.metadata.num_rows)
            number = group = unpacked = 0

            while (
                group < file.num_row_groups
                and number + file.metadata.row_group(group).num_rows <= start.rows
            ):
                number += file.metadata.row_group(group).num_rows
                group += 1

            groups = list(range(group, file.num_row_groups))
            for batch in file.iter_batches(PARQUET_BATCH_ROWS, groups, use_threads=False):
                known = min(batch.num_rows, max(0, start.rows - number))
                for index, values in enumerate(batch.slice(known).to_pylist(), number + known + 1):
                    unpacked += approximate_bytes(values)
                    unpacked_check(size, unpacked)
                    yield Row(index, values, end=size * index // total)

                number += batch.num_rows
    except (MemoryError, FileProblem):
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise FileProblem(
            f"The Parquet file cannot be read: {str(error).splitlines()[0][:200]}"
        ) from error


def _claims_check(size: int, index: Any) -> None:
    """index: pyarrow's FileMetaData. Raises FileProblem."""
    groups = (
        index.row_group(number) for number in range(min(index.num_row_groups, MOST_ROW_GROUPS))
    )
    parquet_check(
        size=size,
        rows=index.num_rows,
        columns=index.num_columns,
        row_groups=index.num_row_groups,
        unpacked=sum(group.total_byte_size for group in groups),
    )
