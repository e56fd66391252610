"""Files and folders that cost little to send and much to read: each is a case of a kind.

Every maker writes into a folder and returns what it wrote. `says` is what a person is told of it,
"" where it is read like any other."""

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GOOD_ROW = b'{"question": "How many legs has a spider?", "answer": "Eight."}\n'


@dataclass(frozen=True)
class Hostile:
    """at_once: whether the upload itself is refused, and not the check that follows it."""

    name: str
    make: Callable[[], bytes]
    says: str
    at_once: bool = False


def parquet(table: pa.Table, **options) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def repeated(rows: int, text: str) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([text]))


def wide_csv() -> bytes:
    """100,000 columns: names that were compared with each other took minutes."""
    names = ",".join(f"column_{number}" for number in range(100_000))
    return f"{names}\n{',' * 99_999}\n".encode()


def many_rows_parquet() -> bytes:
    """Three million rows in some kilobytes, all of them the same."""
    table = pa.table({"text": repeated(3_000_000, "the same text once more")})
    return parquet(table, compression="zstd")


def unpacking_parquet() -> bytes:
    """Five gigabytes, of which the file holds a text of a megabyte once."""
    return parquet(pa.table({"text": repeated(5_000, "x" * 1_000_000)}), compression="zstd")


def wide_parquet() -> bytes:
    return parquet(pa.table({f"c{number}": ["x"] for number in range(6_000)}))


def large_index_parquet() -> bytes:
    """A footer that claims to be as long as the rest of the world."""
    whole = parquet(pa.table({"text": ["x"]}))
    return whole[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"


def wide_row() -> bytes:
    row = {f"key {number}": number for number in range(50_000)}
    return json.dumps(row).encode() + b"\n"


def many_keys() -> bytes:
    """Every row has other keys, so that all together have a hundred thousand."""
    rows = ({f"{row} {number}": 1 for number in range(500)} for row in range(200))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def many_fields() -> bytes:
    """The same within a column of objects."""
    rows = ({"a": {f"{row} {number}": {"x": 1} for number in range(500)}} for row in range(200))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def empty_objects() -> bytes:
    """A hundred rows of thousands of objects with nothing in them."""
    row = json.dumps({f"c{number}": {} for number in range(5_000)}).encode()
    return (row + b"\n") * 100


def deep_line() -> bytes:
    return b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"


def deep_list() -> bytes:
    return b"[" * 1_000_000


def deep_python_text() -> bytes:
    return b"text\n" + b'"' + b"['a', " * 50_000 + b'"\n'


def blank() -> bytes:
    return b" " * (8 << 20)


def open_quotation() -> bytes:
    return b'question,answer\n"' + b"never closed\n" * 660_000


def one_long_line() -> bytes:
    return b'{"text": "' + b"a" * (20 << 20) + b'"}\n'


def many_short_rows() -> bytes:
    return b"{}\n" * 100_000


def long_row_of(piece: str, characters: int = 3_000_000) -> Callable[[], bytes]:
    text = (piece * (characters // len(piece)))[:characters]
    return lambda: json.dumps({"text": text}).encode() + b"\n"


def gzip_bomb() -> bytes:
    import gzip

    return gzip.compress(b"x" * (64 << 20))


DATA_FILES = [
    Hostile("wide.csv", wide_csv, "100,000 columns"),
    Hostile("many-rows.parquet", many_rows_parquet, "3,000,000 rows"),
    Hostile("unpacking.parquet", unpacking_parquet, "a thousand times its size"),
    Hostile("wide.parquet", wide_parquet, "6,000 columns"),
    Hostile("large-index.parquet", large_index_parquet, "index is not whole"),
    Hostile("wide-row.jsonl", wide_row, "more than 5,000 columns"),
    Hostile("many-keys.jsonl", many_keys, "column"),
    Hostile("many-fields.jsonl", many_fields, "column"),
    Hostile("empty-objects.jsonl", empty_objects, "column"),
    Hostile("deep-line.jsonl", deep_line, "Nested too deeply"),
    Hostile("deep-list.json", deep_list, "not closed"),
    Hostile("deep-python.csv", deep_python_text, ""),
    Hostile("blank.jsonl", blank, "blank space", at_once=True),
    Hostile("open-quotation.csv", open_quotation, "quotation mark"),
    Hostile("one-long-line.jsonl", one_long_line, "Longer than 8 MB"),
    Hostile("many-short-rows.jsonl", many_short_rows, "rows are empty"),
    Hostile("long-letters.jsonl", long_row_of("a"), ""),
    Hostile("long-blanks.jsonl", long_row_of("x" + " " * 5_000), ""),
    Hostile("long-marks.jsonl", long_row_of("<|im_start|>"), ""),
    Hostile("long-digits.jsonl", long_row_of("4111 1111 1111 "), ""),
    Hostile("long-addresses.jsonl", long_row_of("a.b@" * 50), ""),
    Hostile("bomb.jsonl", gzip_bomb, "compressed (gzip)", at_once=True),
]


def config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)


def large_config(folder: Path) -> None:
    config(folder, '{"model_type": "llama", "x": [' + "{}," * 1_000_000 + "{}]}")


def deep_config(folder: Path) -> None:
    config(folder, '{"model_type": "llama", "x": ' + "[" * 500_000 + "]" * 500_000 + "}")


def long_header(folder: Path) -> None:
    """Weights whose header claims 2^60 bytes."""
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}" * 100)


def claiming_tensor(folder: Path) -> None:
    """One tensor of 2^60 elements in some bytes."""
    tensor = {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 16]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def sparse_tokenizer(folder: Path) -> None:
    """A vocabulary of ten gigabytes that takes no room on the disk."""
    with (folder / "tokenizer.json").open("wb") as stream:
        stream.truncate(10 << 30)


def deep_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ' + "[" * 500_000)


# (name, how a model's folder is spoilt, what is said of it, whether it is said at once)
MODEL_FOLDERS = [
    ("large-config", large_config, "config.json is larger than 2 MB", True),
    ("deep-config", deep_config, "cannot be read as JSON", True),
    ("sparse-tokenizer", sparse_tokenizer, "tokenizer.json is larger than 256 MB", True),
    ("deep-index", deep_index, "cannot be read as JSON", True),
    ("long-header", long_header, "damaged or cut off", False),
    ("claiming-tensor", claiming_tensor, "damaged or cut off", False),
]


def claiming_gguf() -> bytes:
    """As somebody sent it: 94 bytes that claim 2^60 elements."""
    key = b"x"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    return head + struct.pack("<IIQ", 9, 0, 2**60) + bytes(94 - len(head) - 16)
