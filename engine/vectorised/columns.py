"""`to_example` for whole columns of a table, for the rows that are plainly good.

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
    lengths = [len(each) for each in data]
    offsets = np.cumsum([0, *lengths]).astype(np.int32)
    buffers = (pa.py_buffer(offsets), pa.py_buffer(b"".join(data)))

    return pa.StringArray.from_buffers(len(data), *buffers)


def indices_of(rows: NDArray[np.int64]) -> pa.Int64Array:
    return pa.Int64Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])


SYSTEM, USER, ASSISTANT, OTHER = range(4)
ROLES_OF_TEXT = {
    name: role for name, role in ROLES.items() if role != "tool" and name not in CALL_ROLES
}
ROLE_NAMES = array_of(ROLES_OF_TEXT)
# One more at the end, where a name that is not known looks with -1.
CODES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
ROLE_CODES = np.array([*(CODES[role] for role in ROLES_OF_TEXT.values()), OTHER])
BETWEEN_TEXTS, BEFORE_INPUT = array_of([SEPARATOR, "\n\n"])
# Surely no character of engine.rows.values.INVISIBLE: neither white space nor control, mark or
# symbol, nor a Hangul filler, which are letters by name.
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
    """The texts of a table's rows.

    joined: (rows,) the texts of a row with SEPARATOR between.
    known: (rows,) whether it is certain what `to_example` makes of the row.
    system: (rows,) of known rows, whether the first text is a system prompt.
    answer_bytes: (rows,) length of the last text, None where rows end without an answer.
    turns: whether the texts are turns of a conversation.
    unused: {field: (rows,)} whether a field that is not used has content.
    """

    joined: pa.StringArray
    known: Flags
    system: Flags
    answer_bytes: NDArray[np.int64] | None
    turns: bool = True
    unused: dict[str, Flags] = field(default_factory=dict)


def schema_of(format: str, columns: Mapping[str, str]) -> pa.Schema | None:
    """The types that columns must have for rows to be known; None for a format whose rows never
    are, and where a column stands within another one. columns: see
    engine.rows.column_map.columns_read."""
    if format not in READERS:
        return None

    for source in columns.values():
        if "." in source:
            return None

    not_text = ("messages", "conversations", *UNUSUAL)
    fields = []
    for name, source in columns.items():
        if name not in not_text:
            fields.append((source, pa.string()))

    return pa.schema(fields)


def texts_of(table: pa.Table, format: str, columns: Mapping[str, str]) -> Texts | None:
    """The texts of a table whose columns are one chunk each, of the types that schema_of asks for.
    None where no row is known."""
    texts = READERS[format](table, columns)
    if texts is None:
        return None

    for name in UNUSUAL:
        column = _column_name(table, columns, name)
        if column:
            texts.known &= _is_empty(_column(table, column))

    used = set(columns.values())
    for name in table.column_names:
        if name in used:
            continue

        has_content = have_content(_column(table, name))
        if not has_content.any():
            continue

        if is_media(name):
            texts.known &= ~has_content

        texts.unused[name] = has_content

    return texts


def _conversations(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
    column = _column_name(table, columns, "messages")
    column = column or _column_name(table, columns, "conversations")
    if not column:
        return None

    lists = _column(table, column)
    keys = _turn_keys(lists)
    if keys is None or lists.offset or lists.values.null_count:
        return None

    role_key, content_key = keys
    contents = lists.values.field(content_key)
    roles = _role_codes(lists.values.field(role_key))

    # bounds: (rows + 1,) where the turns of each row begin; owner: (turns,) the row of each turn.
    bounds = np.frombuffer(lists.buffers()[1], np.int32)[: len(lists) + 1]
    counts = np.diff(bounds)
    owner = np.repeat(np.arange(len(counts)), counts)

    has_turns = counts > 0
    first_turns = bounds[:-1][has_turns]
    last_turns = bounds[1:][has_turns] - 1

    system = np.zeros(len(counts), bool)
    system[has_turns] = roles[first_turns] == SYSTEM

    # [system,] user, assistant, user, …, assistant
    place = np.arange(len(owner)) - bounds[owner] - system[owner]
    speaker = np.where(place % 2, ASSISTANT, USER)
    expected = np.where(place < 0, SYSTEM, speaker)

    is_paired = (counts - system) % 2 == 0
    known = has_turns & is_paired & (counts > system)
    is_unsure = (roles != expected) | ~surely_visible(contents)
    known[owner[is_unsure]] = False

    answer_bytes = np.zeros(len(counts), np.int64)
    answer_bytes[has_turns] = _byte_lengths(contents)[last_turns]

    unused = _other_keys(lists, keys, column, owner, known)
    by_row = pa.ListArray.from_arrays(lists.offsets, contents)
    joined = pc.binary_join(by_row, BETWEEN_TEXTS)
    texts = Texts(joined, known, system, answer_bytes, unused=unused)

    return _with_system(table, columns, texts)


def _role_codes(roles: pa.StringArray) -> NDArray[np.int64]:
    """(turns,) SYSTEM, USER, ASSISTANT or OTHER."""
    matches = pc.index_in(roles, ROLE_NAMES)
    indices = np.frombuffer(matches.buffers()[1], np.int32)
    is_known = flags_of(matches.is_valid())
    codes: NDArray[np.int64] = ROLE_CODES[np.where(is_known, indices, -1)]
    return codes


def _other_keys(
    lists: pa.Array, keys: tuple[str, str], column: str, owner: NDArray[np.int64], known: Flags
) -> dict[str, Flags]:
    """{messages[].key: (rows,)} whether a key of turns that is not used has content. Rows with a
    key that changes what is learned are taken out of `known`."""
    unused: dict[str, Flags] = {}
    for key in lists.type.value_type:
        if key.name in keys:
            continue

        values = lists.values.field(key.name)
        if key.name in MEANINGFUL_KEYS:
            with_meaning = ~_is_empty(values)
            known[owner[with_meaning]] = False
            continue

        has_content = have_content(values)
        if has_content.any():
            rows = np.zeros(len(known), bool)
            rows[owner[has_content]] = True
            unused[f"{column}[].{key.name}"] = rows

    return unused


def _turn_keys(lists: pa.Array) -> tuple[str, str] | None:
    """The names of a turn's role and content, where all turns have these alone, or more that mean
    nothing."""
    if not pa.types.is_list(lists.type):
        return None

    turn_type = lists.type.value_type
    if not pa.types.is_struct(turn_type):
        return None

    types = {field.name: field.type for field in turn_type}
    if len(types) != turn_type.num_fields:
        return None

    present = [key for key in (*ROLE_KEYS, *CONTENT_KEYS) if key in types]
    for keys in USUAL_KEYS:
        if present == list(keys) and all(types[key] == pa.string() for key in keys):
            return keys

    return None


def _asked_and_answered(
    asked: str, answer: str, extra: str = "", *, extra_first: bool = False, any_shape: bool = False
) -> Callable[..., Texts | None]:
    """A reader of rows that are a question and its answer.

    extra: a column whose text stands behind the question, or in front of it.
    any_shape: whether both may be turns instead of texts, and a prompt may end in a separator.
    """

    def read(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
        questions = _column(table, columns[asked])
        answers = _column(table, columns[answer])
        known = surely_visible(questions) & surely_visible(answers)

        if any_shape:
            known &= ~_maybe_turns(questions)
            known &= ~_maybe_turns(answers)
            known &= ~_maybe_separated(questions)

        column = _column_name(table, columns, extra)
        if column and _column(table, column).null_count < table.num_rows:
            more, has_more = _optional(table, column, known)
            parts = (more, questions) if extra_first else (questions, more)
            with_more = pc.binary_join_element_wise(*parts, BEFORE_INPUT)
            questions = pc.if_else(has_more, with_more, questions)

        texts = Texts(
            joined=pc.binary_join_element_wise(questions, answers, BETWEEN_TEXTS),
            known=known,
            system=_all_false(table),
            answer_bytes=_byte_lengths(answers),
        )
        return _with_system(table, columns, texts)

    return read


def _plain_text(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
    texts = _column(table, columns["text"])
    maybe_spoken = flags_of(pc.match_substring_regex(texts, MAYBE_SPOKEN))

    return Texts(
        joined=texts,
        known=surely_visible(texts) & ~maybe_spoken,
        system=_all_false(table),
        answer_bytes=None,
        turns=False,
    )


def _prompt_only(table: pa.Table, columns: Mapping[str, str]) -> Texts | None:
    prompts = _column(table, columns["prompt"])
    texts = Texts(
        joined=prompts,
        known=surely_visible(prompts) & ~_maybe_turns(prompts),
        system=_all_false(table),
        answer_bytes=None,
    )
    return _with_system(table, columns, texts)


def _maybe_turns(texts: pa.StringArray) -> Flags:
    return flags_of(pc.match_substring_regex(texts, MAYBE_TURNS))


def _maybe_separated(texts: pa.StringArray) -> Flags:
    """(texts,) whether each may end in a separator. Of most the last byte tells that it does
    not."""
    offsets, data = bytes_of(texts)
    begins = offsets[:-1]
    ends = offsets[1:]

    has_bytes = flags_of(texts.is_valid()) & (ends > begins)
    last = data[ends[has_bytes] - 1]
    is_candidate = np.isin(last, SEPARATOR_BYTES) | ~_is_plain_byte(last)
    candidates = np.flatnonzero(has_bytes)[is_candidate]

    maybe = np.zeros(len(has_bytes), bool)
    if len(candidates):
        few = texts.take(indices_of(candidates))
        maybe[candidates] = flags_of(pc.match_substring_regex(few, MAYBE_SEPARATOR))

    return maybe


def _is_plain_byte(values: NDArray[np.uint8]) -> Flags:
    """Whether each is a visible character of ASCII."""
    return (values >= ord("!")) & (values <= ord("~"))


def _with_system(table: pa.Table, columns: Mapping[str, str], texts: Texts) -> Texts:
    """`texts` behind the row's own system prompt, where it has one."""
    column = _column_name(table, columns, "system")
    # Most files have none, and joining texts to nothing would copy them all.
    if not column or _column(table, column).null_count == table.num_rows:
        return texts

    prompts, has_prompt = _optional(table, column, texts.known)
    rows = flags_of(has_prompt)
    # A row with two system prompts is left to `to_example`.
    texts.known &= ~(texts.system & rows)
    texts.system = texts.system | rows

    with_prompt = pc.binary_join_element_wise(prompts, texts.joined, BETWEEN_TEXTS)
    texts.joined = pc.if_else(has_prompt, with_prompt, texts.joined)

    return texts


def _optional(table: pa.Table, name: str, known: Flags) -> tuple[pa.Array, pa.BooleanArray]:
    """A column and where it has a text; rows of which that is not certain are taken out of
    `known`."""
    column = _column(table, name)
    has_text = surely_visible(column)
    known &= has_text | (_byte_lengths(column) == 0)

    bits = pa.py_buffer(np.packbits(has_text, bitorder="little"))
    return column, pa.BooleanArray.from_buffers(pa.bool_(), len(has_text), [None, bits])


def _is_empty(values: pa.Array) -> Flags:
    """(values,) whether each is null, or a text or a list without anything in it."""
    empty = flags_of(values.is_null())

    if pa.types.is_string(values.type):
        empty |= _byte_lengths(values) == 0
    if pa.types.is_list(values.type):
        empty |= np.diff(_offsets(values)) == 0

    return empty


def have_content(values: pa.Array) -> Flags:
    """(values,) engine.rows.values.has_content of each."""
    if pa.types.is_null(values.type):
        return np.zeros(len(values), bool)

    is_valid = flags_of(values.is_valid())
    if pa.types.is_string(values.type):
        return _byte_lengths(values) > 0

    if pa.types.is_list(values.type):
        counts = np.append(0, np.cumsum(have_content(values.values)))
        offsets = _offsets(values)
        return is_valid & (counts[offsets[1:]] > counts[offsets[:-1]])

    if pa.types.is_struct(values.type):
        any_member = np.zeros(len(values), bool)
        for member in values.flatten():
            any_member |= have_content(member)

        return is_valid & any_member

    return is_valid


def _offsets(lists: pa.ListArray) -> NDArray[np.int32]:
    """(lists + 1,) where each begins and ends in its values."""
    offsets = np.frombuffer(lists.buffers()[1], np.int32)
    end = lists.offset + len(lists) + 1
    return offsets[lists.offset : end]


def _column_name(table: pa.Table, columns: Mapping[str, str], role: str) -> str:
    """The name of the column with this role, "" where the format knows none or the table has
    none."""
    if role not in columns:
        return ""

    # A file may well have a column without a name.
    name = columns[role]
    return name if name in table.column_names else ""


def _column(table: pa.Table, name: str) -> pa.Array:
    return table[name].chunk(0)


def _all_false(table: pa.Table) -> Flags:
    return np.zeros(table.num_rows, bool)


def flags_of(values: pa.BooleanArray) -> Flags:
    """(values,) false for null."""
    end = values.offset + len(values)
    flags: Flags = np.ones(len(values), bool)

    # One bit for each value: whether it is valid, and what it is.
    for bits in values.buffers():
        if bits is not None:
            unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
            flags &= unpacked[values.offset : end].astype(bool)

    return flags


def _byte_lengths(texts: pa.StringArray) -> NDArray[np.int64]:
    """(texts,) 0 for null."""
    offsets, _ = bytes_of(texts)
    is_valid = flags_of(texts.is_valid())
    return np.where(is_valid, np.diff(offsets), 0)


def surely_visible(texts: pa.StringArray) -> Flags:
    """(texts,) whether each is certain not to be blank. Of most the first byte tells."""
    offsets, data = bytes_of(texts)
    visible = flags_of(texts.is_valid()) & (offsets[1:] > offsets[:-1])
    first = data[offsets[:-1][visible]]
    candidates = np.flatnonzero(visible)[~_is_plain_byte(first)]

    if len(candidates):
        few = texts.take(indices_of(candidates))
        visible[candidates] = flags_of(pc.match_substring_regex(few, VISIBLE))

    return visible


def bytes_of(texts: pa.StringArray) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """(texts + 1,) where each begins and ends, and what they are slices of."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32) if offsets else np.zeros(1, np.int32)
    end = texts.offset + len(texts) + 1
    return bounds[texts.offset : end], np.frombuffer(data or b"", np.uint8)


READERS: Mapping[str, Callable[[pa.Table, Mapping[str, str]], Texts | None]] = {
    "messages": _conversations,
    "conversations": _conversations,
    "prompt-completion": _asked_and_answered("prompt", "completion", any_shape=True),
    "alpaca": _asked_and_answered("instruction", "output", extra="input"),
    "question-answer": _asked_and_answered("question", "answer", extra="context", extra_first=True),
    "text": _plain_text,
    "prompt-only": _prompt_only,
}
