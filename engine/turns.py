"""Turns and texts of a row, read strictly: what can be understood is, all else is a problem of the row."""

from __future__ import annotations

import json
import math
from typing import Any

VALUE_CHARACTERS = 300

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")


Turns = list[dict[str, str]]


class RowProblem(ValueError):
    """Why a row cannot be learned from. `field` names the column, for a turn as messages[2].content, from 1."""

    def __init__(self, field: str, value: Any, reason: str) -> None:
        self.field = field
        self.value = value if isinstance(value, str) else _as_json(value)
        self.value = self.value[:VALUE_CHARACTERS]
        self.reason = reason
        super().__init__(f"{field}: {reason}" if field else reason)


def present(values: dict[str, Any], column: str) -> Any:
    if column not in values:
        raise RowProblem(column, "", "The column is missing in this row.")
    return values[column]


def system_turns(values: dict[str, Any], columns: dict[str, str]) -> list[dict[str, str]]:
    """The row's own system prompt; a blank one counts as none."""
    column = columns.get("system", "")
    if not column or values.get(column) is None:
        return []
    text = text_of(values[column], column)
    return [{"role": "system", "content": text}] if text.strip() else []


def said(role: str, value: Any, where: str) -> dict[str, str]:
    return {"role": role, "content": filled(value, where)}


def filled(value: Any, where: str) -> str:
    if value is None:
        raise RowProblem(where, None, "Is null; a text is needed.")
    text = text_of(value, where)
    if not text.strip():
        raise RowProblem(where, text, "Is blank; a text is needed.")
    return text


def text_of(value: Any, where: str) -> str:
    """Text as it is, a number as JSON writes it, the text parts of a list of parts joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return json.dumps(value)
        except (OverflowError, ValueError):
            pass
        raise RowProblem(where, "a number", "Is not a number that can be written down; a text is needed.")
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return "".join(_part(part, where) for part in value)
    kind = {bool: "true or false", list: "a list", dict: "an object", type(None): "null"}.get(type(value), "no text")
    raise RowProblem(where, value, f"Is {kind}; a text is needed.")


def _part(part: dict[str, Any], where: str) -> str:
    if part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowProblem(where, part, "Holds something other than text, such as an image; only text can be learned from.")


def turns_of(value: Any, column: str) -> list[dict[str, str]]:
    """Turns with role and content (or from and value), also where a table holds them as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem(column, value, "Begins like a list of turns, but is not valid JSON.") from None
    if not isinstance(value, list):
        raise RowProblem(column, value, "Is not a list of turns.")
    if not value:
        raise RowProblem(column, value, "Has no turns.")
    turns = [_turn(item, f"{column}[{index}]") for index, item in enumerate(value, 1)]
    return [turn for turn in turns if turn["role"] != "system" or turn["content"].strip()]


def _turn(item: Any, where: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise RowProblem(where, item, "Is not a turn with role and content.")
    role_key = next((key for key in ROLE_KEYS if item.get(key) is not None), "")
    if not role_key:
        raise RowProblem(where, item, "Has no role: each turn says who speaks.")
    role = ROLES.get(str(item[role_key]).strip().lower())
    if role is None:
        raise RowProblem(f"{where}.{role_key}", item[role_key], "Unknown role; system, user and assistant are known.")
    key = next((key for key in CONTENT_KEYS if key in item), CONTENT_KEYS[ROLE_KEYS.index(role_key)])
    content = item.get(key)
    if role == "system":
        return {"role": role, "content": "" if content is None else text_of(content, f"{where}.{key}")}
    if content is None and item.get("tool_calls"):
        raise RowProblem(
            f"{where}.{key}", content, "Calls a tool in place of saying something; only text can be learned from."
        )
    return said(role, content, f"{where}.{key}")


def opening(turns: Turns, column: str) -> Turns:
    """The turns, where they lead up to an answer: [system,] user[, assistant, user, …]."""
    _order(turns, column)
    if turns[-1]["role"] != "user":
        raise RowProblem(column, turns[-1]["content"], "The prompt ends with an answer; it must end with the user.")
    return turns


def conversation(turns: Turns, column: str) -> Turns:
    """The turns, where they are in an order that every chat template takes: [system,] user, assistant, user, …"""
    _order(turns, column)
    if turns[-1]["role"] != "assistant":
        raise RowProblem(column, turns[-1]["content"], "The conversation ends without an answer of the assistant.")
    return turns


def _order(turns: Turns, column: str) -> None:
    start = bool(turns) and turns[0]["role"] == "system"
    for index, turn in enumerate(turns[start:]):
        wanted = "assistant" if index % 2 else "user"
        if turn["role"] == wanted:
            continue
        if turn["role"] == "system":
            raise RowProblem(column, turn["content"], "A system turn stands behind the first turn.")
        if index == 0:
            raise RowProblem(
                column, turn["content"], "The conversation begins with the assistant; the user comes first."
            )
        raise RowProblem(column, turn["content"], f"Two {turn['role']} turns in a row.")
    if not turns[start:]:
        raise RowProblem(column, "", "Has no turns of user and assistant.")


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError, TypeError):
        return f"({type(value).__name__})"
