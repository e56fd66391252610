"""Turns and texts of a row, read strictly: what can be understood is, all else is a problem of the row."""

from __future__ import annotations

import json
import math
from typing import Any

VALUE_CHARACTERS = 300

# ShareGPT files have a role of its own for a call.
CALL = "function_call"
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    CALL: "assistant",
    "tool": "tool", "observation": "tool", "function": "tool",
}  # fmt: skip
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")


# {"role", "content"} of texts; of an answer that calls tools also "tool_calls", see calls_of.
Turn = dict[str, Any]
Turns = list[Turn]


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


def system_turns(values: dict[str, Any], columns: dict[str, str]) -> Turns:
    """The row's own system prompt; a blank one counts as none."""
    column = columns.get("system", "")
    if not column or values.get(column) is None:
        return []
    text = text_of(values[column], column)
    return [{"role": "system", "content": text}] if text.strip() else []


def said(role: str, value: Any, where: str) -> Turn:
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


def turns_of(value: Any, column: str) -> Turns:
    """Turns with role and content (or from and value), also where a table holds them as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, column, "Begins like a list of turns, but is not valid JSON.")
    if not isinstance(value, list):
        raise RowProblem(column, value, "Is not a list of turns.")
    if not value:
        raise RowProblem(column, value, "Has no turns.")
    turns = [_turn(item, column, index) for index, item in enumerate(value, 1)]
    return [turn for turn in turns if turn["role"] != "system" or turn["content"].strip()]


def tools_of(values: dict[str, Any], columns: dict[str, str]) -> list[dict[str, Any]] | None:
    """The tools that a row offers, as chat templates take them: JSON Schemas of functions, also as JSON text."""
    column = columns.get("tools", "")
    value = values.get(column) if column else None
    if isinstance(value, str) and value.strip():
        value = _parsed(value, column, "Is not valid JSON; a list of tools is needed.")
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowProblem(column, value, "Is not a list of tools, each an object.")
    return value


def calls_of(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls of tools as chat templates take them: {"type": "function", "function": {"name", "arguments": object}}."""
    value = _parsed(value, where, "Is not valid JSON; a call of a tool is needed.") if isinstance(value, str) else value
    found = value if isinstance(value, list) else [value]
    return [_call(item, f"{where}[{number}]" if len(found) > 1 else where) for number, item in enumerate(found, 1)]


def _call(item: Any, where: str) -> dict[str, Any]:
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise RowProblem(where, item, "Is no call of a tool: the name of a function is missing.")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # As the OpenAI API writes them; templates would quote them once more.
        arguments = _parsed(arguments, f"{where}.arguments", "Are not valid JSON; an object is needed.")
    if not isinstance(arguments, dict):
        raise RowProblem(f"{where}.arguments", arguments, "Are no object of named arguments.")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _parsed(text: str, where: str, reason: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowProblem(where, text, reason) from None


def _turn(item: Any, column: str, index: int) -> Turn:
    # What most files have is told first, for there are millions of them.
    if type(item) is dict and len(item) == 2:
        role, content = item.get("role"), item.get("content")
        if (role == "user" or role == "assistant") and type(content) is str and content and not content.isspace():
            return {"role": role, "content": content}
    return _turn_of_any_kind(item, f"{column}[{index}]")


def _turn_of_any_kind(item: Any, where: str) -> Turn:
    if not isinstance(item, dict):
        raise RowProblem(where, item, "Is not a turn with role and content.")
    role_key = next((key for key in ROLE_KEYS if item.get(key) is not None), "")
    if not role_key:
        raise RowProblem(where, item, "Has no role: each turn says who speaks.")
    named = str(item[role_key]).strip().lower()
    role = ROLES.get(named)
    if role is None:
        raise RowProblem(
            f"{where}.{role_key}", item[role_key], "Unknown role; system, user, assistant and tool are known."
        )
    key = next((key for key in CONTENT_KEYS if key in item), CONTENT_KEYS[ROLE_KEYS.index(role_key)])
    content = item.get(key)
    if role == "system":
        return {"role": role, "content": "" if content is None else text_of(content, f"{where}.{key}")}
    if named == CALL:
        return {"role": role, "content": "", "tool_calls": calls_of(content, f"{where}.{key}")}
    if role == "assistant" and item.get("tool_calls"):
        text = "" if content is None else text_of(content, f"{where}.{key}")
        return {"role": role, "content": text, "tool_calls": calls_of(item["tool_calls"], f"{where}.tool_calls")}
    if role == "tool":
        # What a tool gave back may be an object, and may be nothing.
        text = _as_json(content) if isinstance(content, dict | list | bool) or content is None else content
        name = {"name": item["name"]} if isinstance(item.get("name"), str) else {}
        return {"role": role, "content": text_of(text, f"{where}.{key}")} | name
    return said(role, content, f"{where}.{key}")


def opening(turns: Turns, column: str) -> Turns:
    """The turns, where they lead up to an answer: [system,] user[, assistant, user, …]."""
    _order(turns, column)
    if turns[-1]["role"] != "user":
        raise RowProblem(column, turns[-1]["content"], "The prompt ends with an answer; it must end with the user.")
    return turns


def conversation(turns: Turns, column: str) -> Turns:
    """The turns, where they are in an order that chat templates take: [system,] user, assistant, user, …

    Behind an answer that calls tools stands what they gave back, and then the next answer.
    """
    _order(turns, column)
    if turns[-1]["role"] != "assistant":
        raise RowProblem(column, turns[-1]["content"], "The conversation ends without an answer of the assistant.")
    return turns


def _order(turns: Turns, column: str) -> None:
    start = bool(turns) and turns[0]["role"] == "system"
    wanted: tuple[str, ...] = ("user",)
    before: Turn = {"role": ""}
    for turn in turns[start:]:
        if turn["role"] not in wanted:
            raise RowProblem(column, turn["content"], _disorder(turn["role"], before))
        wanted, before = _followers(turn), turn
    if not turns[start:]:
        raise RowProblem(column, "", "Has no turns of user and assistant.")


def _followers(turn: Turn) -> tuple[str, ...]:
    match turn["role"]:
        case "user":
            return ("assistant",)
        case "tool":
            return ("tool", "assistant")
        case _:
            return ("tool",) if turn.get("tool_calls") else ("user",)


def _disorder(role: str, before: Turn) -> str:
    """Why a turn of this role does not stand behind that one."""
    if role == "system":
        return "A system turn stands behind the first turn."
    if role == "tool":
        return "A tool answers, and none was called just before."
    if before.get("tool_calls"):
        return "A tool was called, and what it gave back is missing."
    if not before["role"]:
        return "The conversation begins with the assistant; the user comes first."
    return f"Two {role} turns in a row."


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError, TypeError):
        return f"({type(value).__name__})"
