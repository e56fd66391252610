"""What the rows of a table say, for those that say it plainly: `to_example` for whole columns.

It knows the formats whose rows are texts, or turns of texts. "Known" are rows of which it is
certain that `to_example` makes the same of them; nothing is said of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from engine.rows.chat_turns import (
    CALL_ROLES,
    CONTENT_KEYS,
    MEANINGFUL_KEYS,
    ROLE_KEYS,
    ROLES,
    USUAL_KEYS,
)
from engine.rows.hash_set import SEPARATOR
from engine.rows.row_reader import is_media

# Arrays are made and read by their buffers: pyarrow's own ways to and from Python's lists and numpy
# load pandas, which is a third of what this takes.
Flags = NDArray[np.bool_]


def array_of(texts: Collection[str]) -> pa.StringArray:
    data = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, data)]).astype(np.int32)
    return pa.StringArray.from_buffers(
        len(data), pa.py_buffer(offsets), pa.py_buffer(b"".join(data))
    )


def indices_of(rows: NDArray[np.int64]) -> pa.Int64Array:
    return pa.Int64Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])


SYSTEM, USER, ASSISTANT, OTHER = range(4)
SPOKEN = {name: role for name, role in ROLES.items() if role != "tool" and name not in CALL_ROLES}
ROLE_NAMES = array_of(SPOKEN)
# One more at the end, where a name that is not known looks with -1.
ROLE_CODES = np.array(
    [*(("system", "user", "assistant").index(role) for role in SPOKEN.values()), OTHER]
)
BETWEEN_TEXTS, BEFORE_INPUT = array_of([SEPARATOR, "\n\n"])
# Surely no character of engine.rows.values.INVISIBLE: neither white space nor control, mark or symbol,
# nor a Hangul filler, which are letters by name.
VISIBLE = r"[!-~]|[^\pZ\pC\pM\pS\x{115f}\x{1160}\x{3164}\x{ffa0}]"
# How a prompt or an answer begins that may be turns written as text, and how a text does in which
# somebody may speak.
MAYBE_TURNS = r"^[^!-~]*(\[|Human:)"
MAYBE_SPOKEN = r"^[^!-~]*(###\s*)?(System|Human|User)\s*:"
# The end of a prompt that may be a separator, and the last byte that such an end has at least.
MAYBE_SEPARATOR = r"(#|=|-|->)[^!-~]*$"
SEPARATOR_BYTES = np.frombuffer(b"#=->", np.uint8)
# Columns that hold no texts, or none in most files. A row is known where they say nothing.
UNUSUAL = ("tools", "history", "reasoning")


@dataclass
class Texts:
    """joined: (rows,) the texts of a row with SEPARATOR between. known, system: (rows,), of those
    known whether the first text is a system prompt. last: (rows,) bytes of the answer, None where
    rows end without one. turns: whether the texts are turns of a conversation. unused: {field:
    (rows,)} whether a field that is not used carries something."""

    joined: pa.StringArray
    known: Flags
    system: Flags
    last: NDArray[np.int64] | None
    turns: bool = True
    unused: dict[str, Flags] = field(default_factory=dict)


def schema_of(format: str, columns: Mapping[str, str]) -> pa.Schema | None:
    """What the columns have to be, for rows to be known; None for a format whose rows never are,
    and where a column stands within another one. columns: see engine.rows.column_map.columns_read."""
    if format not in READERS or any("." in source for source in columns.values()):
        return None

    not_text = ("messages", "conversations", *UNUSUAL)
    return pa.schema(
        [(source, pa.string()) for name, source in columns.items() if name not in not_text]
    )


def texts_of(table: pa.Table, format: str, columns: Mapping[str, str]) -> Texts | None:
    """Of a table whose columns are one chunk each, of a type that schema_of asks for. None where no
    row is known."""
    texts = READERS[format](table, columns)
    if texts is None:
        return None

    for name in UNUSUAL:
        if column := _there(table, columns, name):
            texts.known &= _says_nothing(_column(table, column))

    used = set(columns.values())
    for name in table.column_names:
        if name in used or not (carrying := have_content(_column(table, name))).any():
            continue
        if is_media(name):
            texts.known &= ~carrying

        texts.unused[name] = carrying

    return texts


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
    kinds = ROLE_CODES[
        np.where(flags_of(named.is_valid()), np.frombuffer(named.buffers()[1], np.int32), -1)
    ]
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
    unused = _other_keys(lists, keys, column, owner, known)
    joined = pc.binary_join(pa.ListArray.from_arrays(lists.offsets, contents), BETWEEN_TEXTS)

    return _with_system(table, columns, Texts(joined, known, system, last, unused=unused))


def _other_keys(
    lists: pa.Array, keys: tuple[str, str], column: str, owner: NDArray[np.int64], known: Flags
) -> dict[str, Flags]:
    """{messages[].key: (rows,)} whether a key of turns that is not used carries something. Rows
    with a key that changes what is learned are taken out of `known`."""
    unused: dict[str, Flags] = {}
    for key in lists.type.value_type:
        if key.name in keys:
            continue

        values = lists.values.field(key.name)
        if key.name in MEANINGFUL_KEYS:
            known[owner[~_says_nothing(values)]] = False
        elif (carrying := have_content(values)).any():
            unused[f"{column}[].{key.name}"] = rows = np.zeros(len(known), bool)
            rows[owner[carrying]] = True

    return unused


def _turn_keys(lists: pa.Array) -> tuple[str, str] | None:
    """The names of a turn's role and content, where all turns have these alone, or more that mean
    nothing."""
    if not pa.types.is_list(lists.type) or not pa.types.is_struct(lists.type.value_type):
        return None

    types = {field.name: field.type for field in lists.type.value_type}
    if len(types) != lists.type.value_type.num_fields:
        return None

    found = [key for key in (*ROLE_KEYS, *CONTENT_KEYS) if key in types]
    for keys in USUAL_KEYS:
        if found == list(keys) and all(types[key] == pa.string() for key in keys):
            return keys

    return None


def _asked_and_answered(
    asked: str, answer: str, extra: str = "", *, extra_first: bool = False, any_shape: bool = False
) -> Callable[..., Texts | None]:
    """extra: a column whose text stands behind the question, or in front of it.

    any_shape: whether both may be turns instead of texts, and a prompt may end in a separator.
    """

    def read(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
        asks, answers = _column(table, columns[asked]), _column(table, columns[answer])
        known = surely_said(asks) & surely_said(answers)

        if any_shape:
            known &= ~(_maybe_turns(asks) | _maybe_turns(answers) | _maybe_separated(asks))

        column = _there(table, columns, extra)
        if column and _column(table, column).null_count < table.num_rows:
            more, has_more = _optional(table, column, known)
            parts = (more, asks) if extra_first else (asks, more)
            asks = pc.if_else(has_more, pc.binary_join_element_wise(*parts, BEFORE_INPUT), asks)

        texts = Texts(
            pc.binary_join_element_wise(asks, answers, BETWEEN_TEXTS),
            known,
            _none(table),
            _bytes(answers),
        )
        return _with_system(table, columns, texts)

    return read


def _plain_text(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
    texts = _column(table, columns["text"])
    known = surely_said(texts) & ~flags_of(pc.match_substring_regex(texts, MAYBE_SPOKEN))
    return Texts(texts, known, _none(table), None, turns=False)


def _prompt_only(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
    prompts = _column(table, columns["prompt"])
    known = surely_said(prompts) & ~_maybe_turns(prompts)
    return _with_system(table, columns, Texts(prompts, known, _none(table), None))


def _maybe_turns(texts: pa.StringArray) -> Flags:
    return flags_of(pc.match_substring_regex(texts, MAYBE_TURNS))


def _maybe_separated(texts: pa.StringArray) -> Flags:
    """(texts,) whether each may end in a separator. Of most the last byte tells that it does
    not."""
    offsets, data = bytes_of(texts)
    begins, ends = offsets[:-1], offsets[1:]
    maybe = flags_of(texts.is_valid()) & (ends > begins)
    last = data[ends[maybe] - 1]
    rest = np.flatnonzero(maybe)[
        np.isin(last, SEPARATOR_BYTES) | (last < ord("!")) | (last > ord("~"))
    ]
    found = np.zeros(len(maybe), bool)

    if len(rest):
        found[rest] = flags_of(
            pc.match_substring_regex(texts.take(indices_of(rest)), MAYBE_SEPARATOR)
        )

    return found


def _with_system(table: pa.Table, columns: Mapping[str, str], texts: Texts) -> Texts:
    """`texts` behind the row's own system prompt, where it has one."""
    column = _there(table, columns, "system")
    # Most files have none, and joining texts to nothing would copy them all.
    if not column or _column(table, column).null_count == table.num_rows:
        return texts

    prompts, has_one = _optional(table, column, texts.known)
    texts.known &= ~(texts.system & flags_of(has_one))
    texts.joined = pc.if_else(
        has_one, pc.binary_join_element_wise(prompts, texts.joined, BETWEEN_TEXTS), texts.joined
    )
    texts.system = texts.system | flags_of(has_one)

    return texts


def _optional(table: pa.Table, name: str, known: Flags) -> tuple[pa.Array, pa.BooleanArray]:
    """A column and where it says something; rows of which that is not certain are taken out of
    `known`."""
    column = _column(table, name)
    said = surely_said(column)
    known &= said | (_bytes(column) == 0)

    return column, pa.BooleanArray.from_buffers(
        pa.bool_(), len(said), [None, pa.py_buffer(np.packbits(said, bitorder="little"))]
    )


def _says_nothing(values: pa.Array) -> Flags:
    """(values,) whether each is null, or a text or a list without anything in it."""
    nothing = flags_of(values.is_null())

    if pa.types.is_string(values.type):
        nothing |= _bytes(values) == 0
    if pa.types.is_list(values.type):
        nothing |= np.diff(_offsets(values)) == 0

    return nothing


def have_content(values: pa.Array) -> Flags:
    """(values,) engine.rows.values.has_content of each."""
    if pa.types.is_null(values.type):
        return np.zeros(len(values), bool)

    there = flags_of(values.is_valid())
    if pa.types.is_string(values.type):
        return _bytes(values) > 0

    if pa.types.is_list(values.type):
        inside = np.append(0, np.cumsum(have_content(values.values)))
        offsets = _offsets(values)
        return there & (inside[offsets[1:]] > inside[offsets[:-1]])

    if pa.types.is_struct(values.type):
        found = np.zeros(len(values), bool)
        for inner in values.flatten():
            found |= have_content(inner)

        return there & found

    return there


def _offsets(lists: pa.ListArray) -> NDArray[np.int32]:
    """(lists + 1,) where each begins and ends in its values."""
    return np.frombuffer(lists.buffers()[1], np.int32)[lists.offset : lists.offset + len(lists) + 1]


def _there(table: pa.Table, columns: Mapping[str, str], role: str) -> str:
    """The name of the column with this role, "" where the format knows none or the table has
    none."""
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
        np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[
            values.offset : values.offset + len(values)
        ]
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
    "prompt-completion": _asked_and_answered("prompt", "completion", any_shape=True),
    "alpaca": _asked_and_answered("instruction", "output", extra="input"),
    "question-answer": _asked_and_answered("question", "answer", extra="context", extra_first=True),
    "text": _plain_text,
    "prompt-only": _prompt_only,
}
