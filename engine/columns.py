"""What the rows of a table say, for those that say it plainly: `to_example` for whole columns.

It knows the formats whose rows are texts, or turns of texts. "Known" are rows of which it is certain that `to_example`
makes the same of them; nothing is said of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from engine.examples import COLUMNS
from engine.marks import SEPARATOR
from engine.turns import CALL, CONTENT_KEYS, ROLE_KEYS, ROLES

# Arrays are made and read by their buffers: pyarrow's own ways to and from Python's lists and numpy load pandas, which
# is a third of what this takes.
Flags = NDArray[np.bool_]


def array_of(texts: Collection[str]) -> pa.StringArray:
    data = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, data)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(data), pa.py_buffer(offsets), pa.py_buffer(b"".join(data)))


def indices_of(rows: NDArray[np.int64]) -> pa.Int64Array:
    return pa.Int64Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])


SYSTEM, USER, ASSISTANT, OTHER = range(4)
SPOKEN = {name: role for name, role in ROLES.items() if role != "tool" and name != CALL}
ROLE_NAMES = array_of(SPOKEN)
# One more at the end, where a name that is not known looks with -1.
ROLE_CODES = np.array([*(("system", "user", "assistant").index(role) for role in SPOKEN.values()), OTHER])
# No white space of any script is among these.
BETWEEN_TEXTS, BEFORE_INPUT = array_of([SEPARATOR, "\n\n"])
VISIBLE = r"[\pL\pN!-~]"
# Like the beginning of turns written as text, which a prompt may be.
TURNS_AS_TEXT = "[{"


@dataclass
class Texts:
    """joined: (rows,) the texts of a row with SEPARATOR between. known, system: (rows,), of those known whether the
    first text is a system prompt. last: (rows,) bytes of the answer, None where rows end without one. turns: whether
    the texts are turns of a conversation."""

    joined: pa.StringArray
    known: Flags
    system: Flags
    last: NDArray[np.int64] | None
    turns: bool = True


def schema_of(format: str, columns: Mapping[str, str]) -> pa.Schema | None:
    """What the columns have to be, for rows to be known; None for a format whose rows never are."""
    if format not in READERS:
        return None
    nested = ("messages", "conversations", "tools")
    return pa.schema([(columns[name], pa.string()) for name in COLUMNS[format] if name not in nested])


def texts_of(table: pa.Table, format: str, columns: Mapping[str, str]) -> Texts | None:
    """Of a table whose columns are one chunk each, of a type that schema_of asks for. None where no row is known."""
    return READERS[format](table, columns)


def _conversations(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
    column = _there(table, columns, "messages") or _there(table, columns, "conversations")
    if not column:
        return None
    lists = _column(table, column)
    keys = _turn_keys(lists)
    if keys is None or lists.offset or lists.values.null_count:
        return None
    roles, contents = (lists.values.field(key) for key in keys)
    bounds = np.frombuffer(lists.buffers()[1], np.int32)[: len(lists) + 1]
    counts = np.diff(bounds)
    owner = np.repeat(np.arange(len(counts)), counts)
    named = pc.index_in(roles, ROLE_NAMES)
    kinds = ROLE_CODES[np.where(flags_of(named.is_valid()), np.frombuffer(named.buffers()[1], np.int32), -1)]
    filled = counts > 0
    system = np.zeros(len(counts), bool)
    system[filled] = kinds[bounds[:-1][filled]] == SYSTEM
    # [system,] user, assistant, user, …, assistant
    place = np.arange(len(owner)) - bounds[owner] - system[owner]
    expected = np.where(place < 0, SYSTEM, np.where(place % 2, ASSISTANT, USER))
    known = filled & ((counts - system) % 2 == 0) & (counts > system)
    known[owner[(kinds != expected) | ~surely_said(contents)]] = False
    last = np.zeros(len(counts), np.int64)
    last[filled] = _bytes(contents)[bounds[1:][filled] - 1]
    if tools := _there(table, columns, "tools"):
        known &= flags_of(_column(table, tools).is_null())
    joined = pc.binary_join(pa.ListArray.from_arrays(lists.offsets, contents), BETWEEN_TEXTS)
    return _with_system(table, columns, Texts(joined, known, system, last))


def _turn_keys(lists: pa.Array) -> tuple[str, str] | None:
    """The names of a turn's role and content, where all turns have these alone, or more that mean nothing."""
    if not pa.types.is_list(lists.type) or not pa.types.is_struct(lists.type.value_type):
        return None
    types = {field.name: field.type for field in lists.type.value_type}
    if len(types) != lists.type.value_type.num_fields or "tool_calls" in types:
        return None
    found = [key for key in (*ROLE_KEYS, *CONTENT_KEYS) if key in types]
    for keys in zip(ROLE_KEYS, CONTENT_KEYS, strict=True):
        if found == list(keys) and all(types[key] == pa.string() for key in keys):
            return keys
    return None


def _asked_and_answered(asked: str, answer: str, extra: str = "") -> Callable[..., Texts | None]:
    def read(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
        asks, answers = _column(table, columns[asked]), _column(table, columns[answer])
        known = surely_said(asks) & surely_said(answers)
        if extra:
            more, has_more = _optional(table, columns[extra], known)
            asks = pc.if_else(has_more, pc.binary_join_element_wise(asks, more, BEFORE_INPUT), asks)
        texts = Texts(pc.binary_join_element_wise(asks, answers, BETWEEN_TEXTS), known, _none(table), _bytes(answers))
        return _with_system(table, columns, texts)

    return read


def _plain_text(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
    texts = _column(table, columns["text"])
    return Texts(texts, surely_said(texts), _none(table), None, turns=False)


def _prompt_only(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
    prompts = _column(table, columns["prompt"])
    known = surely_said(prompts) & ~flags_of(pc.match_substring(prompts, TURNS_AS_TEXT))
    return _with_system(table, columns, Texts(prompts, known, _none(table), None))


def _with_system(table: pa.Table, columns: Mapping[str, str], texts: Texts) -> Texts:
    """`texts` behind the row's own system prompt, where it has one."""
    column = _there(table, columns, "system")
    if not column:
        return texts
    prompts, has_one = _optional(table, column, texts.known)
    texts.known &= ~(texts.system & flags_of(has_one))
    texts.joined = pc.if_else(has_one, pc.binary_join_element_wise(prompts, texts.joined, BETWEEN_TEXTS), texts.joined)
    texts.system = texts.system | flags_of(has_one)
    return texts


def _optional(table: pa.Table, name: str, known: Flags) -> tuple[pa.Array, pa.BooleanArray]:
    """A column and where it says something; rows of which that is not certain are taken out of `known`."""
    column = _column(table, name)
    said = surely_said(column)
    known &= said | (_bytes(column) == 0)
    return column, pa.BooleanArray.from_buffers(
        pa.bool_(), len(said), [None, pa.py_buffer(np.packbits(said, bitorder="little"))]
    )


def _there(table: pa.Table, columns: Mapping[str, str], role: str) -> str:
    """The name of the column with this role, "" where the format knows none or the table has none."""
    name = columns.get(role, "")
    # A file may well have a column without a name.
    return name if role in columns and name in table.column_names else ""


def _column(table: pa.Table, name: str) -> pa.Array:
    return table[name].chunk(0)


def _none(table: pa.Table) -> Flags:
    return np.zeros(table.num_rows, bool)


def flags_of(values: pa.BooleanArray) -> Flags:
    """(values,) false for null."""
    flags = [
        np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[values.offset : values.offset + len(values)]
        for bits in values.buffers()
        if bits is not None
    ]
    found: Flags = np.logical_and.reduce(flags)
    return found


def _bytes(texts: pa.StringArray) -> NDArray[np.int64]:
    """(texts,) 0 for null."""
    offsets, _ = bytes_of(texts)
    return np.where(flags_of(texts.is_valid()), np.diff(offsets), 0)


def surely_said(texts: pa.StringArray) -> Flags:
    """(texts,) whether each is certain not to be blank. Of most the first byte tells."""
    offsets, data = bytes_of(texts)
    said = flags_of(texts.is_valid()) & (offsets[1:] > offsets[:-1])
    first = data[offsets[:-1][said]]
    rest = np.flatnonzero(said)[(first < ord("!")) | (first > ord("~"))]
    if len(rest):
        said[rest] = flags_of(pc.match_substring_regex(texts.take(indices_of(rest)), VISIBLE))
    return said


def bytes_of(texts: pa.StringArray) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """(texts + 1,) where each begins and ends, and what they are slices of."""
    _, offsets, data = texts.buffers()
    found = np.frombuffer(offsets, np.int32) if offsets else np.zeros(1, np.int32)
    return found[texts.offset : texts.offset + len(texts) + 1], np.frombuffer(data or b"", np.uint8)


READERS: Mapping[str, Callable[[pa.Table, Mapping[str, str]], Texts | None]] = {
    "messages": _conversations,
    "conversations": _conversations,
    "prompt-completion": _asked_and_answered("prompt", "completion"),
    "alpaca": _asked_and_answered("instruction", "output", extra="input"),
    "question-answer": _asked_and_answered("question", "answer"),
    "text": _plain_text,
    "prompt-only": _prompt_only,
}
