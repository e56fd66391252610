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
    """The row's columns as controls, those that a train reads in front; `errors` as row_edit gives
    them."""
    read = [
        source for source in columns_read(dataset.format, dataset.column_map).values() if source
    ]
    tops = {source.partition(".")[0] for source in read} | set(read)
    names = sorted(values, key=lambda name: name not in tops)

    return [_control(name, values[name], name in tops, errors or {}) for name in names]


def _control(
    name: str, value: Any, is_read: bool, errors: Mapping[str, list[str]]
) -> ColumnControl:
    own = [text for key, texts in errors.items() if _is_of(key, name) for text in texts]
    if isinstance(value, str):
        return ColumnControl(name, TEXT, is_read, text=value, errors=own)

    if is_turns(value):
        turns = [_turn(name, number, turn, errors) for number, turn in enumerate(value)]
        new = [
            TurnControl(f"{name}.{number}", "", "", is_new=True)
            for number in range(len(value), len(value) + NEW_TURNS)
        ]
        rest = [] if any(turn.errors for turn in turns) else own
        return ColumnControl(name, TURNS, is_read, turns=turns + new, errors=rest)

    return ColumnControl(
        name, JSON, is_read, text=json.dumps(value, ensure_ascii=False, indent=2), errors=own
    )


def _turn(
    name: str, number: int, turn: dict[str, Any], errors: Mapping[str, list[str]]
) -> TurnControl:
    start = f"values.{name}[{number + 1}]"
    own = [text for key, texts in errors.items() if key.startswith(start) for text in texts]
    key = _content_key(turn)
    return TurnControl(f"{name}.{number}", role_of(turn), str(turn[key]), errors=own)


def _is_of(key: str, name: str) -> bool:
    """Whether an error's key is that of a column, or of a part of it."""
    return re.match(rf"values\.{re.escape(name)}(?![^.\[])", key) is not None


def is_turns(value: Any) -> bool:
    """Whether this is a list of turns that can be edited as texts: each with one role and one
    text."""
    if not isinstance(value, list) or not value:
        return False

    return all(
        isinstance(turn, dict) and _content_key(turn) and role_of(turn) in ROLES for turn in value
    )


def _content_key(turn: dict[str, Any]) -> str:
    return next((key for key in CONTENT_KEYS if isinstance(turn.get(key), str)), "")


def values_read(values: dict[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """The row with what was typed. Raises UserError for JSON that is none.

    Controls are named column-NAME; of turns column-NAME.NUMBER for the text, role-NAME.NUMBER for
    who speaks and drop-NAME.NUMBER for one to leave out.
    """
    edited: dict[str, Any] = {}
    for name, value in values.items():
        if is_turns(value):
            edited[name] = _turns_read(name, value, data)
        elif f"column-{name}" not in data:
            edited[name] = value
        elif isinstance(value, str):
            edited[name] = _text(data[f"column-{name}"], value)
        else:
            edited[name] = _json_read(name, data[f"column-{name}"])

    return edited


def _turns_read(
    name: str, turns: list[dict[str, Any]], data: Mapping[str, str]
) -> list[dict[str, Any]]:
    edited = []
    for number, turn in enumerate(turns):
        key = f"{name}.{number}"
        if f"drop-{key}" in data:
            continue

        content = _content_key(turn)
        changed = turn | {content: _text(data.get(f"column-{key}", turn[content]), turn[content])}
        role = data.get(f"role-{key}", "")
        if role in ROLES and role != role_of(turn):
            changed |= {_role_key(turn): role}

        edited.append(changed)

    for number in range(len(turns), len(turns) + NEW_TURNS):
        role, text = data.get(f"role-{name}.{number}", ""), data.get(f"column-{name}.{number}", "")
        if role in ROLES and text.strip():
            like = turns[0]
            edited.append({_role_key(like): role, _content_key(like): _text(text, "")})

    return edited


def _role_key(turn: dict[str, Any]) -> str:
    return next((key for key in ROLE_KEYS if turn.get(key) is not None), "role")


def _text(typed: str, before: str) -> str:
    """What was typed. Browsers send lines as CR LF, and a text that was not touched stays as it
    was."""
    plain = typed.replace("\r\n", "\n")
    return before if plain == before.replace("\r\n", "\n") else plain


def _json_read(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            {
                f"values.{name}": [
                    "This is not valid JSON. Text stands in double quotes, lists in [ ], objects "
                    "in { }."
                ]
            }
        ) from error
