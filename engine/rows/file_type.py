"""The type of an uploaded file, detected by its content: its beginning and its last bytes."""

from __future__ import annotations

import re
from pathlib import Path

import orjson

FILE_TYPES = ("jsonl", "json", "csv", "parquet", "txt")
BLOCK_BYTES = 1 << 20
BEGINNING_BYTES = 64 << 10

ENDINGS = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "csv": "csv",
    "tsv": "csv",
    "parquet": "parquet",
    "pq": "parquet",
    "txt": "txt",
    "text": "txt",
    "md": "txt",
    "markdown": "txt",
}
TYPE_NAMES = {
    "jsonl": "JSONL",
    "json": "JSON",
    "csv": "CSV",
    "parquet": "Parquet",
    "txt": "plain text",
}
BOM = b"\xef\xbb\xbf"

# {"version": 1, "data": [ … : plain members, then a list. Group 1 is its name.
WRAPPED_LIST = re.compile(
    rb'\s*\{(?:\s*"[^"\\]{0,200}"\s*:\s*(?:"[^"\\]{0,2000}"|[-+.\w]{1,40})\s*,)*\s*"([^"\\]{1,200})"\s*:\s*\[\s*[{\]]'
)
# A list of these names is one row's conversation and not a list of rows.
ROW_LISTS = frozenset(
    {
        b"messages",
        b"conversations",
        b"conversation",
        b"prompt",
        b"completion",
        b"chosen",
        b"rejected",
    }
)
# Objects written over several lines each, one after another.
OBJECT_OVER_LINES = re.compile(rb'\{[ \t]*\r?\n\s*"')
ROWS_BEGINNING = re.compile(rb'\{\s*"|\[\s*[\[{]')
JSON_BEGINNING = re.compile(rb'[\[{]\s*["\[{\]}]')
MAGIC = {
    b"\x1f\x8b": "The file is compressed (gzip). Unpack it first, then upload what was inside.",
    b"PK\x03\x04": "This is a ZIP or Excel file. Save the table as CSV, or unpack the archive "
    "first.",
    b"BZh": "The file is compressed (bzip2). Unpack it first, then upload what was inside.",
    b"\xfd7zXZ": "The file is compressed (xz). Unpack it first, then upload what was inside.",
    b"\x28\xb5\x2f\xfd": "The file is compressed (zstd). Unpack it first, then upload what was "
    "inside.",
    b"%PDF": "This is a PDF document. Put its examples into a CSV, JSON or JSONL file.",
    b"PARE": "This Parquet file is encrypted. Write it again without encryption.",
}
UTF16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
EMPTY = "The file is empty. Upload a file with one example per row."
ONLY_BLANK = "The file holds only blank lines. Upload a file with one example per row."
NOT_JSON_ROWS = (
    "The file is JSON, but not a list of objects. Write [{…}, {…}] with one object for each "
    "example, or one object a line (JSONL)."
)


class FileProblem(ValueError):
    """The file as a whole cannot be read; str() is a sentence for people."""


def detect_file_type(path: Path, name: str) -> str:
    """One of FILE_TYPES by content. `name` is the file's name as uploaded; its ending must not say
    something else.

    Reads the beginning and the last bytes only. Raises FileProblem.
    """
    size = path.stat().st_size
    if size == 0:
        raise FileProblem(EMPTY)

    with path.open("rb") as stream:
        head = stream.read(BLOCK_BYTES)
        stream.seek(max(0, size - 4))
        tail = stream.read()

    ending = name.rpartition(".")[2].lower() if "." in name else ""
    claimed = ENDINGS.get(ending, "")

    if head.startswith(b"PAR1") and tail == b"PAR1" and size >= 12:
        return _agreed("parquet", claimed, ending)

    _refuse_binary(head, whole=size <= len(head))
    if claimed == "parquet":
        raise FileProblem(
            "The name says Parquet, but this is no whole Parquet file. Was the upload or download "
            "cut off?"
        )

    if with_returns(head):
        head = head.replace(b"\r", b"\n")

    head = head.removeprefix(BOM).lstrip()
    if not head:
        if size <= BLOCK_BYTES:
            raise FileProblem(ONLY_BLANK)

        # Whether there is more is not looked for: it may be gigabytes further on.
        raise FileProblem(
            "The file begins with a megabyte of blank space. Remove it and upload the file again."
        )

    return _agreed(_text_type(path, head, claimed), claimed, ending)


def with_returns(head: bytes) -> bool:
    """Whether lines end with carriage returns alone, as they did on a Macintosh of the last century
    and still do in what Excel there calls CSV; seen by the beginning of the file."""
    beginning = head[:BEGINNING_BYTES]
    return b"\r" in beginning.rstrip() and b"\n" not in beginning


def _agreed(detected: str, claimed: str, ending: str) -> str:
    # JSON and JSONL are mixed up so often, and distinguished so surely, that the ending does not
    # matter between them; and whoever calls rows a text says no more than that they can be read.
    if claimed in ("", "txt", detected) or {claimed, detected} == {"json", "jsonl"}:
        return detected

    raise FileProblem(
        f"The name ends in .{ending}, but the content is {TYPE_NAMES[detected]}. "
        f"If that is what you mean, rename the file to end in .{detected} and upload it again."
    )


def _refuse_binary(head: bytes, *, whole: bool) -> None:
    for magic, sentence in MAGIC.items():
        if head.startswith(magic):
            raise FileProblem(sentence)

    # UTF-16 without a mark has a NUL at every second byte of plain text.
    pairs = head[:2000]
    if (
        head.startswith(UTF16_OR_32)
        or min(pairs[0::2].count(0), pairs[1::2].count(0)) * 10 < pairs.count(0) > 9
    ):
        raise FileProblem(
            "The file is encoded as UTF-16 or UTF-32. Save it again as UTF-8 and upload that."
        )

    if head.startswith(b"PAR1"):
        raise FileProblem(
            "This Parquet file is not whole: its end is missing. Was the upload or download cut "
            "off?"
        )

    if b"\x00" in head[:4096]:
        raise FileProblem(
            "This is a binary file, not a table of examples. JSONL, JSON, CSV, Parquet and plain "
            "text can be read."
        )

    first_line = head.partition(b"\n")[0]
    try:
        first_line.decode()
    except UnicodeDecodeError as error:
        # A character that the block's end cuts in two is no error.
        if whole or error.start < len(head) - 4:
            raise FileProblem(
                f"The file is not UTF-8 (byte {error.start + 1:,} of its first line). Save it as "
                "UTF-8 and upload that."
            ) from error


def _text_type(path: Path, head: bytes, claimed: str) -> str:
    first, _, rest = head.partition(b"\n")
    if claimed == "csv":
        # What begins like JSON is no header: the ending lies.
        return ("json" if head[:1] == b"[" else "jsonl") if JSON_BEGINNING.match(head) else "csv"

    if claimed == "txt" and not ROWS_BEGINNING.match(head):
        return "txt"
    if head.startswith(b"["):
        return "jsonl" if _is_lists(first, rest) else "json"

    if head.startswith(b"{"):
        wrapped = WRAPPED_LIST.match(head)
        is_one_line = len(first) == len(head)
        first = first.rstrip().removesuffix(b",")
        several = bool(rest.strip()) and _is_json(first)
        if wrapped and wrapped[1].lower() not in ROW_LISTS and not several and claimed != "jsonl":
            return "json"

        if (
            claimed == "jsonl"
            or _is_json(first)
            or (is_one_line and path.stat().st_size > len(head))
        ):
            return "json" if OBJECT_OVER_LINES.match(head) else "jsonl"

        if OBJECT_OVER_LINES.match(head):
            return "json"

        raise FileProblem(NOT_JSON_ROWS)

    if claimed == "jsonl" and b"\n{" in head:
        # The first line is broken, and some other is a row.
        return "jsonl"

    if claimed in ("json", "jsonl"):
        name = TYPE_NAMES[claimed]
        raise FileProblem(
            NOT_JSON_ROWS if _is_json(first) else f"The name says {name}, but the content is not."
        )

    raise FileProblem(
        "This kind of file cannot be read. Upload JSONL, JSON, CSV, Parquet or plain text (.txt, "
        ".md), with its usual ending."
    )


def _is_lists(first: bytes, rest: bytes) -> bool:
    """Whether each line is a list of turns, and not one list of rows over several lines."""
    if not first.rstrip().removesuffix(b",").endswith(b"]") or not rest.lstrip().startswith(b"["):
        return False

    return _is_json(first.rstrip().removesuffix(b","))


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except ValueError:
        return False

    return True
