"""The header of a GGUF file, checked before any library reads it: whether the file can hold what
its header claims.

Libraries allocate memory for whatever a header claims, and a claim costs its sender eight bytes.
Here nothing is kept but the position in the file and a few numbers, so that a small file takes
little memory whatever it claims.

    GGUF   version   tensors   keys    key, type, value …    name, dimensions, shape, type, offset …
    magic  u32       u64       u64     of each key           of each tensor

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Far beyond any real model (some thousand tensors, some hundred keys, half a million strings of
# tokens and merges), and few enough to be read in seconds.
MOST_TENSORS = 200_000
MOST_KEYS = 65_536
MOST_STRINGS = 8_000_000
# The format's limit on names and keys, and ggml's on a shape.
LONGEST_NAME = 65_535
MOST_DIMENSIONS = 4
# The densest quantisations take more than a bit for each weight.
MOST_WEIGHTS_PER_BYTE = 8

# Types of values.
STRING = 8
ARRAY = 9
# Bytes of a value by its type: u8, i8, u16, i16, u32, i32, f32, bool; u64, i64, f64.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
# Bytes at least: length, type and value of a key; length, dimensions, type and offset of a tensor;
# length of a string.
SMALLEST_KEY = 8 + 4 + 1
SMALLEST_TENSOR = 8 + 4 + 4 + 8
SMALLEST_STRING = 8


# Keys, without their prefix, of sizes that are a side of some tensor.
SIDES = ("embedding_length", "feed_forward_length", "vocab_size")


class GgufProblem(ValueError):
    """The file is no GGUF file that can be read; the text says why, in words for people."""


CUT_OFF = "This GGUF file is cut off or damaged. Upload it again."
TOO_MUCH = (
    "This GGUF file is damaged: its header claims {what}, more than a file of its size can "
    "hold. Upload it again."
)


@dataclass
class _Header:
    """`position`: of the next byte to be read. `strings`: how many strings in arrays were skipped
    so far. `numbers`: {key: its integer value}. `lists`: {key: (type, position, length)} of lists of
    integers."""

    data: mmap.mmap
    position: int = 0
    strings: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    lists: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def skip(self, count: int) -> None:
        if count > self.left:
            raise GgufProblem(CUT_OFF)

        self.position += count

    def number(self, form: str = "<Q") -> int:
        """The next integer, in the notation of the module struct."""
        start = self.position
        self.skip(struct.calcsize(form))
        (value,) = struct.unpack_from(form, self.data, start)

        return int(value)

    def count(self, what: str, smallest: int, most: int) -> int:
        """How many of something follow, of which each takes at least `smallest` bytes. Raises
        GgufProblem for more than `most`, or more than the file has room for."""
        count = self.number()
        if count > most or count * smallest > self.left:
            raise GgufProblem(TOO_MUCH.format(what=f"{count:,} {what}"))

        return count

    def string(self, longest: int) -> bytes:
        start = self._string_skip(longest)
        return self.data[start : self.position]

    def string_skip(self) -> None:
        self._string_skip(len(self.data))

    def _string_skip(self, longest: int) -> int:
        """Returns where its text begins."""
        length = self.count("letters of one text", 1, longest)
        start = self.position
        self.skip(length)

        return start


def header_check(path: Path) -> None:
    """Raises GgufProblem for a file whose header claims more than the file can hold. Allocates no
    memory for the claims."""
    with _opened(path):
        pass


def integers_read(path: Path) -> dict[str, list[int]]:
    """{key: its integers} of all keys that have any; a single one is a list of one. Raises
    GgufProblem as header_check does."""
    with _opened(path) as header:
        found = {key: [number] for key, number in header.numbers.items()}
        for key, (kind, position, count) in header.lists.items():
            form = f"<{count}{INTEGERS[kind][-1]}"
            found[key] = list(struct.unpack_from(form, header.data, position))

    return found


@contextmanager
def _opened(path: Path) -> Iterator[_Header]:
    """The header, read and checked, while its file is open."""
    with path.open("rb") as stream:
        if stream.read(4) != MAGIC:
            raise GgufProblem("This is no GGUF file: it does not begin with GGUF.")

        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Header(data, position=len(MAGIC))
            _header_read(header)
            yield header


def _header_read(header: _Header) -> None:
    if header.number("<I") not in VERSIONS:
        raise GgufProblem("This GGUF file is of a version that cannot be read.")

    tensors = header.count("tensors", SMALLEST_TENSOR, MOST_TENSORS)
    keys = header.count("keys", SMALLEST_KEY, MOST_KEYS)
    for _ in range(keys):
        _key_read(header)

    longest_side = 0
    for _ in range(tensors):
        longest_side = max(longest_side, _tensor_read(header))

    _sizes_check(header.numbers, tensors, longest_side)


def _key_read(header: _Header) -> None:
    key = header.string(LONGEST_NAME).decode("utf-8", "replace")
    kind = header.number("<I")
    if kind in INTEGERS:
        header.numbers[key] = header.number(INTEGERS[kind])
    elif kind == ARRAY:
        _array_skip(header, key)
    else:
        _value_skip(header, kind)


def _array_skip(header: _Header, key: str) -> None:
    kind = header.number("<I")
    if kind in SIZES:
        size = SIZES[kind]
        count = header.count("values", size, len(header.data))
        if kind in INTEGERS:
            header.lists[key] = kind, header.position, count

        header.skip(count * size)
        return

    if kind != STRING:
        # The format allows arrays of arrays, but no model has any, and their depth would need a
        # limit too.
        raise GgufProblem(CUT_OFF)

    count = header.count("texts", SMALLEST_STRING, MOST_STRINGS)
    header.strings += count

    if header.strings > MOST_STRINGS:
        raise GgufProblem(TOO_MUCH.format(what=f"{header.strings:,} texts"))

    # Half a million of them are usual, so no method is called for each.
    data = header.data
    size = len(data)
    position = header.position
    length_at = struct.Struct("<Q").unpack_from

    for _ in range(count):
        if position + 8 > size:
            raise GgufProblem(CUT_OFF)

        position += 8 + length_at(data, position)[0]

    if position > size:
        raise GgufProblem(TOO_MUCH.format(what="longer texts"))

    header.position = position


def _value_skip(header: _Header, kind: int) -> None:
    if kind == STRING:
        header.string_skip()
    elif kind in SIZES:
        header.skip(SIZES[kind])
    else:
        raise GgufProblem(CUT_OFF)


def _tensor_read(header: _Header) -> int:
    """Its longest side: the largest number of its shape."""
    header.string(LONGEST_NAME)
    dimensions = header.number("<I")
    if dimensions > MOST_DIMENSIONS:
        raise GgufProblem(TOO_MUCH.format(what=f"a tensor of {dimensions:,} dimensions"))

    shape = [header.number() for _ in range(dimensions)]
    longest_side = max(shape, default=0)
    most_weights = MOST_WEIGHTS_PER_BYTE * len(header.data)
    # The sides too: one of 0 makes any product 0.
    if longest_side > most_weights or math.prod(shape) > most_weights:
        sides = " by ".join(f"{side:,}" for side in shape)
        raise GgufProblem(TOO_MUCH.format(what=f"a tensor of {sides} weights"))

    header.number("<I")  # its type
    offset = header.number()
    if offset > len(header.data):
        raise GgufProblem(CUT_OFF)

    return longest_side


def _sizes_check(numbers: dict[str, int], tensors: int, longest_side: int) -> None:
    """Raises GgufProblem where the sizes by which a library would build the model are larger than
    its tensors."""
    for key, value in numbers.items():
        name = key.rpartition(".")[2]
        if name == "block_count" and value > tensors:
            raise GgufProblem(TOO_MUCH.format(what=f"{value:,} layers"))

        if name in SIDES and value > longest_side:
            raise GgufProblem(TOO_MUCH.format(what=f"{value:,} as {name.replace('_', ' ')}"))
