"""HashSet of eight bytes that stand for rows and prompts, and a set of them. No training library.

A set takes 16 to 32 bytes for each, where Python's own takes eighty: a dataset of a million rows is
checked in a process that stays small."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson
import xxhash

from engine.rows.chat_turns import Turns
from engine.rows.examples import Example

# numpy is imported where many marks come at once: the web server has this module and needs none of
# that.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST_ROOM = 1024
# So many places are moved at once.
PART = 1 << 16
# Between the texts of a row. A text that holds it is marked in another way.
SEPARATOR = "\x1e"


class HashSet:
    """`add` says whether a mark is new. HashSet are evenly spread numbers of 64 bits, as a hash
    gives."""

    def __init__(self) -> None:
        self.slots = array("Q", [0]) * FIRST_ROOM
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, mark: int) -> bool:
        # 0 is an empty slot.
        mark = mark or 1
        slots, last = self.slots, len(self.slots) - 1
        at = mark & last

        while held := slots[at]:
            if held == mark:
                return False

            at = (at + 1) & last

        slots[at] = mark
        self.count += 1

        if 2 * self.count > len(slots):
            self._room_make(self.count)

        return True

    def add_all(self, marks: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """As `add` of one after the other, which of (marks,) are new."""
        import numpy as np

        different, first = np.unique(np.where(marks == 0, np.uint64(1), marks), return_index=True)
        self._room_make(self.count + len(different))
        is_new = np.zeros(len(marks), bool)
        is_new[first] = self._put(different)

        return is_new

    def _put(self, marks: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of different marks, none of them 0, are new; there is room for all."""
        import numpy as np

        slots = np.frombuffer(self.slots, np.uint64)
        last = np.uint64(len(slots) - 1)
        is_new = np.zeros(len(marks), bool)
        left, at = np.arange(len(marks)), marks & last

        while len(left):
            held, mine = slots[at], marks[left]
            empty = held == 0
            # Of several that want one place, one has it.
            slots[at[empty]] = mine[empty]
            settled = slots[at] == mine
            is_new[left[settled & empty]] = True
            left, at = left[~settled], (at[~settled] + np.uint64(1)) & last

        self.count += int(is_new.sum())
        return is_new

    def _room_make(self, count: int) -> None:
        """At least twice as much as `count` marks take."""
        room = len(self.slots)
        while 2 * count > room:
            room *= 2

        if room > len(self.slots):
            import numpy as np

            before = np.frombuffer(self.slots, np.uint64)
            self.slots, self.count = array("Q", [0]) * room, 0

            for start in range(0, len(before), PART):
                part = before[start : start + PART]
                self._put(part[part != 0])


def example_hash(example: Example) -> int:
    """The same for rows that say the same."""
    if example.chosen is not None or example.rejected is not None or example.label is not None:
        return json_hash(example.messages, example.chosen, example.rejected, example.label)

    return turns_hash(
        example.messages if example.text is None else [{"role": "user", "content": example.text}]
    )


def turns_hash(turns: Turns | None) -> int:
    """Of turns in an order that conversation_check() or prompt_check() has found good. Plain ones are marked
    by their texts."""
    turns = turns or []
    if all(len(turn) == 2 and turn["role"] != "tool" for turn in turns):
        texts = [turn["content"] for turn in turns]
        joined = SEPARATOR.join(texts)
        if joined.count(SEPARATOR) < max(1, len(texts)):
            is_system = bool(turns) and turns[0]["role"] == "system"
            return text_hash(joined.encode("utf-8", "surrogatepass"), is_system)

    return json_hash(turns)


# (texts of turns with SEPARATOR between, whether the first one is a system prompt)
text_hash: Callable[[bytes | memoryview, bool], int] = xxhash.xxh3_64_intdigest


def json_hash(*parts: Any) -> int:
    """Eight bytes of the parts' JSON."""
    try:
        data = orjson.dumps(
            parts, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
        )
    except TypeError:
        # Half a surrogate pair, or a number of more than 64 bits.
        data = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str).encode(
            "utf-8", "surrogatepass"
        )

    return xxhash.xxh3_64_intdigest(data)
