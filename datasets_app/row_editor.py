"""The form in which a row is edited: a text for each column, a text for each turn of a
conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.errors import UserError
from datasets_app.models import Dataset
from engine.doctor.row_repairs import role_of
from engine.rows.chat_turns import CONTENT_KEYS, ROLE_KEYS
from engine.rows.column_map import columns_read

ROLES = ("system", "user", "assistant", "tool")
TEXT, TURNS, JSON = "text", "turns", "json"
# Turns that can be added at once, as empty ones behind the last.
NEW_TURNS = 2


@dataclass(frozen=True)
class TurnControl:
    name: str
    role: str
    content: str
    is_new: bool = False
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ColumnControl:
    """One column of the row. kind: text, turns or json. is_read: whether a train reads the
    column."""

    name: str
    kind: str
    is_read: bool
    text: str = ""
    turns: list[TurnControl] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def controls_of(
    dataset: Dataset, values: dict[str, Any], errors: Mapping[str, list[str]] | None = None
) -> list[ColumnControl]:
    """The row's columns as controls, those that a train reads first.

    errors: {"values.COLUMN…": [text]}, as row_edit raises them.
    """
    read = set()
    for source in columns_read(dataset.format, dataset.column_map).values():
        if source:
            # A field within a column is read as column.field.
            read |= {source, source.partition(".")[0]}

    names = sorted(values, key=lambda name: name not in read)
    return [_control(name, values[name], name in read, errors or {}) for name in names]


def _control(
    name: str, value: Any, is_read: bool, errors: Mapping[str, list[str]]
) -> ColumnControl:
    column_errors = []
    for key, texts in errors.items():
        if _is_about(key, name):
            column_errors += texts

    if isinstance(value, str):
        return ColumnControl(name, TEXT, is_read, text=value, errors=column_errors)

    if not is_turns(value):
        text = json.dumps(value, ensure_ascii=False, indent=2)
        return ColumnControl(name, JSON, is_read, text=text, errors=column_errors)

    turns = []
    for index, turn in enumerate(value):
        control = _turn(name, index, turn, errors)
        turns.append(control)
        if control.errors:
            # They stand beside their turn.
            column_errors = []

    for index in _new_indexes(value):
        control = TurnControl(f"{name}.{index}", "", "", is_new=True)
        turns.append(control)

    return ColumnControl(name, TURNS, is_read, turns=turns, errors=column_errors)


def _new_indexes(turns: list[Any]) -> range:
    """Of the empty turns behind the last."""
    return range(len(turns), len(turns) + NEW_TURNS)


def _turn(
    name: str, index: int, turn: dict[str, Any], errors: Mapping[str, list[str]]
) -> TurnControl:
    # Errors count turns from 1.
    prefix = f"values.{name}[{index + 1}]"
    turn_errors = []
    for key, texts in errors.items():
        if key.startswith(prefix):
            turn_errors += texts

    content = str(turn[_content_key(turn)])
    return TurnControl(f"{name}.{index}", role_of(turn), content, errors=turn_errors)


def _is_about(key: str, name: str) -> bool:
    """Whether an error's key names this column, or a part of it."""
    return re.match(rf"values\.{re.escape(name)}(?![^.\[])", key) is not None


def is_turns(value: Any) -> bool:
    """Whether this is a list of turns that can be edited as texts: each with a role that is known
    and one text."""
    if not isinstance(value, list) or not value:
        return False

    for turn in value:
        if not isinstance(turn, dict):
            return False
        if not _content_key(turn) or role_of(turn) not in ROLES:
            return False

    return True


def _content_key(turn: dict[str, Any]) -> str:
    """The key of the turn's text, "" where no text is found."""
    for key in CONTENT_KEYS:
        if isinstance(turn.get(key), str):
            return key

    return ""


def values_read(values: dict[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """The row with what was typed. Raises UserError for what is not valid JSON.

    Controls are named column-NAME; for turns column-NAME.INDEX for the text, role-NAME.INDEX for
    who speaks and drop-NAME.INDEX for one to leave out.
    """
    edited: dict[str, Any] = {}
    for name, value in values.items():
        control = f"column-{name}"
        if is_turns(value):
            edited[name] = _turns_read(name, value, data)
        elif control not in data:
            edited[name] = value
        elif isinstance(value, str):
            edited[name] = _text(data[control], value)
        else:
            edited[name] = _json_read(name, data[control])

    return edited


def _turns_read(
    name: str, turns: list[dict[str, Any]], data: Mapping[str, str]
) -> list[dict[str, Any]]:
    edited = []
    for index, turn in enumerate(turns):
        control = f"{name}.{index}"
        if f"drop-{control}" not in data:
            edited.append(_turn_read(control, turn, data))

    # New turns have the keys of the first.
    role_key = _role_key(turns[0])
    content_key = _content_key(turns[0])
    for index in _new_indexes(turns):
        control = f"{name}.{index}"
        role = data.get(f"role-{control}", "")
        text = data.get(f"column-{control}", "")
        if role in ROLES and text.strip():
            new_turn = {role_key: role, content_key: _text(text, "")}
            edited.append(new_turn)

    return edited


def _turn_read(control: str, turn: dict[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    content_key = _content_key(turn)
    before = turn[content_key]
    typed = data.get(f"column-{control}", before)
    edited = turn | {content_key: _text(typed, before)}

    role = data.get(f"role-{control}", "")
    if role in ROLES and role != role_of(turn):
        edited[_role_key(turn)] = role

    return edited


def _role_key(turn: dict[str, Any]) -> str:
    for key in ROLE_KEYS:
        if turn.get(key) is not None:
            return key

    return "role"


def _text(typed: str, before: str) -> str:
    """What was typed. Browsers send line ends as CR LF; a text that nobody touched keeps its
    own."""
    plain = typed.replace("\r\n", "\n")
    if plain == before.replace("\r\n", "\n"):
        return before

    return plain


def _json_read(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        message = (
            "This is not valid JSON. Text stands in double quotes, lists in [ ], objects in { }."
        )
        raise UserError({f"values.{name}": [message]}) from error
