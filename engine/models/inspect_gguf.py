"""The header of a GGUF file, read before any library does: whether it can hold what it claims to
hold.

Libraries make room for whatever a header claims, and a claim costs its sender eight bytes. Here
nothing is kept but the place in the file and a few numbers, so that a file of a hundred bytes costs
as much as it weighs.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Far beyond any real model (some thousand tensors, some hundred keys, half a million strings of
# tokens and merges), and few enough to be counted in seconds.
MOST_TENSORS, MOST_KEYS, MOST_STRINGS = 200_000, 65_536, 8_000_000
# Length of names and keys by the format, of a shape by ggml.
LONGEST_NAME, MOST_DIMENSIONS = 65_535, 4
# The densest formats of weights take more than a bit for each.
MOST_WEIGHTS_PER_BYTE = 8

STRING, ARRAY = 8, 9
# Bytes of a value by its type: u8, i8, u16, i16, u32, i32, f32, bool; u64, i64, f64.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
SMALLEST_KEY, SMALLEST_TENSOR, SMALLEST_STRING = 8 + 4 + 1, 8 + 4 + 4 + 8, 8


class GgufProblem(ValueError):
    """The file is no GGUF file that can be read; the text says why, in words for people."""


CUT_OFF = "This GGUF file is cut off or damaged. Upload it again."
TOO_MUCH = (
    "This GGUF file is damaged: its header claims {what}, more than a file of its size can "
    "hold. Upload it again."
)


@dataclass
class _Header:
    """`place`: of the next byte to be read. `strings`: how many have been passed by so far."""

    data: mmap.mmap
    place: int = 0
    strings: int = 0
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def skip(self, count: int) -> None:
        if count > self.left:
            raise GgufProblem(CUT_OFF)

        self.place += count

    def number(self, form: str = "<Q") -> int:
        start = self.place
        self.skip(struct.calcsize(form))
        return int(struct.unpack_from(form, self.data, start)[0])

    def count(self, what: str, smallest: int, most: int) -> int:
        """How many of something follow, of which each takes at least `smallest` bytes."""
        found = self.number()
        if found > most or found * smallest > self.left:
            raise GgufProblem(TOO_MUCH.format(what=f"{found:,} {what}"))

        return found

    def string(self, longest: int | None = None) -> bytes:
        length = self.count("letters of one text", 1, longest or len(self.data))
        start = self.place
        self.skip(length)
        return self.data[start : start + length] if longest else b""


def header_check(path: Path) -> None:
    """Raises GgufProblem for a file whose header claims what the file cannot hold. Takes no memory
    for the claims."""
    with path.open("rb") as stream:
        if stream.read(4) != MAGIC:
            raise GgufProblem("This is no GGUF file: it does not begin with GGUF.")

        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Header(data, place=4)
            _header_read(header)


def _header_read(header: _Header) -> None:
    if header.number("<I") not in VERSIONS:
        raise GgufProblem("This GGUF file is of a version that cannot be read.")

    tensors = header.count("tensors", SMALLEST_TENSOR, MOST_TENSORS)
    keys = header.count("keys", SMALLEST_KEY, MOST_KEYS)
    for _ in range(keys):
        _key_read(header)

    widest = max((_tensor_read(header) for _ in range(tensors)), default=0)
    _sizes_check(header.numbers, tensors, widest)


def _key_read(header: _Header) -> None:
    key = header.string(LONGEST_NAME).decode("utf-8", "replace")
    kind = header.number("<I")
    if kind in INTEGERS:
        header.numbers[key] = header.number(INTEGERS[kind])
    elif kind == ARRAY:
        _array_skip(header)
    else:
        _value_skip(header, kind)


def _array_skip(header: _Header) -> None:
    kind = header.number("<I")
    if kind in SIZES:
        header.skip(header.count("values", SIZES[kind], len(header.data)) * SIZES[kind])
        return

    if kind != STRING:
        # The format allows arrays of arrays; no model has any, and each level would be one more to
        # count.
        raise GgufProblem(CUT_OFF)

    count = header.count("texts", SMALLEST_STRING, MOST_STRINGS)
    header.strings += count

    if header.strings > MOST_STRINGS:
        raise GgufProblem(TOO_MUCH.format(what=f"{header.strings:,} texts"))

    # Half a million of them are usual: nothing is called for each.
    data, size, place, length_at = (
        header.data,
        len(header.data),
        header.place,
        struct.Struct("<Q").unpack_from,
    )

    for _ in range(count):
        if place + 8 > size:
            raise GgufProblem(CUT_OFF)

        place += 8 + length_at(data, place)[0]

    if place > size:
        raise GgufProblem(TOO_MUCH.format(what="longer texts"))

    header.place = place


def _value_skip(header: _Header, kind: int) -> None:
    if kind == STRING:
        header.string()
    elif kind in SIZES:
        header.skip(SIZES[kind])
    else:
        raise GgufProblem(CUT_OFF)


def _tensor_read(header: _Header) -> int:
    """The longest of its dimensions."""
    header.string(LONGEST_NAME)
    dimensions = header.number("<I")
    if dimensions > MOST_DIMENSIONS:
        raise GgufProblem(TOO_MUCH.format(what=f"a tensor of {dimensions:,} dimensions"))

    shape = [header.number() for _ in range(dimensions)]
    most = MOST_WEIGHTS_PER_BYTE * len(header.data)
    if max(shape, default=0) > most or math.prod(shape) > most:
        raise GgufProblem(
            TOO_MUCH.format(
                what=f"a tensor of {' by '.join(f'{side:,}' for side in shape)} weights"
            )
        )

    header.number("<I")
    if header.number() > len(header.data):
        raise GgufProblem(CUT_OFF)

    return max(shape, default=0)


def _sizes_check(numbers: dict[str, int], tensors: int, widest: int) -> None:
    """The sizes of the model, by which a library builds it, fit the weights that are there."""
    for key, value in numbers.items():
        name = key.rpartition(".")[2]
        if name == "block_count" and value > tensors:
            raise GgufProblem(TOO_MUCH.format(what=f"{value:,} layers"))
        if name in ("embedding_length", "feed_forward_length", "vocab_size") and value > widest:
            raise GgufProblem(TOO_MUCH.format(what=f"{value:,} as {name.replace('_', ' ')}"))
