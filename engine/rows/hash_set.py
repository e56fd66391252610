"""Hashes of 64 bits that stand for rows and prompts, and a set of them. No training library.

The set takes 16 to 32 bytes for each, where Python's own takes eighty: a dataset of a million rows
is checked in a process that stays small."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson
import xxhash

from engine.rows.chat_turns import Turns
from engine.rows.examples import Example

# numpy is imported where many values come at once: the web server has this module and needs none of
# that.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INITIAL_SLOTS = 1024
# So many slots are moved at once.
MOVED_SLOTS = 1 << 16
# Between the texts of a row. A text that holds it is hashed in another way.
SEPARATOR = "\x1e"


class HashSet:
    """A set of evenly spread numbers of 64 bits, as a hash gives, in a table with open addressing:
    the place of a number is its lowest bits, or the next that is free.

    0 is an empty slot, so that 0 itself counts as 1.
    """

    def __init__(self) -> None:
        self.slots = array("Q", [0]) * INITIAL_SLOTS
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, value: int) -> bool:
        """Whether it is new."""
        value = value or 1
        slots = self.slots
        mask = len(slots) - 1
        index = value & mask

        while held := slots[index]:
            if held == value:
                return False

            index = (index + 1) & mask

        slots[index] = value
        self.count += 1

        if 2 * self.count > len(slots):
            self._grow(self.count)

        return True

    def add_all(self, values: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """(values,) which of them are new, as if each were added after the other."""
        import numpy as np

        without_zero = np.where(values == 0, np.uint64(1), values)
        different, first = np.unique(without_zero, return_index=True)
        self._grow(self.count + len(different))

        is_new = np.zeros(len(values), bool)
        is_new[first] = self._insert(different)

        return is_new

    def _insert(self, values: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of different values, none of them 0, are new; there is room for all."""
        import numpy as np

        slots = np.frombuffer(self.slots, np.uint64)
        mask = np.uint64(len(slots) - 1)
        is_new = np.zeros(len(values), bool)

        # Those that have no slot yet, and the slot that each looks at.
        left = np.arange(len(values))
        index = values & mask

        while len(left):
            wanted = values[left]
            is_empty = slots[index] == 0
            # Of several that want one slot, one has it.
            slots[index[is_empty]] = wanted[is_empty]
            is_settled = slots[index] == wanted
            is_new[left[is_settled & is_empty]] = True

            left = left[~is_settled]
            index = (index[~is_settled] + np.uint64(1)) & mask

        self.count += int(is_new.sum())
        return is_new

    def _grow(self, count: int) -> None:
        """Makes at least twice as many slots as `count` values take."""
        size = len(self.slots)
        while 2 * count > size:
            size *= 2

        if size == len(self.slots):
            return

        import numpy as np

        before = np.frombuffer(self.slots, np.uint64)
        self.slots = array("Q", [0]) * size
        self.count = 0

        for start in range(0, len(before), MOVED_SLOTS):
            part = before[start : start + MOVED_SLOTS]
            self._insert(part[part != 0])


def example_hash(example: Example) -> int:
    """The same number for rows that say the same."""
    if example.chosen is not None or example.rejected is not None or example.label is not None:
        return json_hash(example.messages, example.chosen, example.rejected, example.label)

    if example.text is not None:
        return turns_hash([{"role": "user", "content": example.text}])

    return turns_hash(example.messages)


def turns_hash(turns: Turns | None) -> int:
    """The hash of turns in an order that engine.rows.chat_turns has checked. Plain ones are hashed
    by their texts, as engine.vectorised does for whole columns."""
    turns = turns or []
    if any(len(turn) != 2 or turn["role"] == "tool" for turn in turns):
        return json_hash(turns)

    texts = [turn["content"] for turn in turns]
    joined = SEPARATOR.join(texts)
    if joined.count(SEPARATOR) >= max(1, len(texts)):
        # A text holds the separator.
        return json_hash(turns)

    is_system = bool(turns) and turns[0]["role"] == "system"
    return text_hash(joined.encode("utf-8", "surrogatepass"), is_system)


# (texts of turns with SEPARATOR between, whether the first one is a system prompt)
text_hash: Callable[[bytes | memoryview, bool], int] = xxhash.xxh3_64_intdigest


def json_hash(*parts: Any) -> int:
    """64 bits of the parts' JSON."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    try:
        data = orjson.dumps(parts, default=str, option=options)
    except TypeError:
        # Half a surrogate pair, or a number of more than 64 bits.
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
        data = text.encode("utf-8", "surrogatepass")

    return xxhash.xxh3_64_intdigest(data)
