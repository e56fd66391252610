"""Tool calls and their results that stand among the parts of a content, as turns of their own.

Standard library only. OpenAI's API gives calls beside the content, and each result as a turn of a
tool. Anthropic's, Gemini's and Bedrock's APIs give both as parts: a call within the assistant's
content, a result within the user's."""

from __future__ import annotations

from typing import Any

from engine.rows.tool_calls import ARGUMENT_KEYS
from engine.rows.values import first_value

Part = dict[str, Any]

# Objects within a part, under these keys; Anthropic's part is the object itself, known by its type.
CALL_PART_KEYS = ("toolUse", "functionCall", "function_call")
RESULT_PART_KEYS = ("toolResult", "functionResponse", "function_response")
CALL_TYPE, RESULT_TYPE = "tool_use", "tool_result"

ID_KEYS = ("tool_use_id", "toolUseId", "id")
RESULT_CONTENT_KEYS = ("content", "response", "output")


def split_tool_parts(item: Part, content_key: str) -> list[Part]:
    """The turn as it is, or as turns in the form of OpenAI's API where its content holds calls or
    results.

    Results come first, and what the user says beside them is a turn behind them.
    """
    content = item.get(content_key)
    if not isinstance(content, list):
        return [item]

    calls = []
    results = []
    rest = []
    for part in content:
        call = _inside(part, CALL_TYPE, CALL_PART_KEYS)
        result = _inside(part, RESULT_TYPE, RESULT_PART_KEYS)
        if call:
            calls.append(_as_call(call))
        if result:
            results.append(_as_turn(result))
        if not call and not result:
            rest.append(part)

    if not calls and not results:
        return [item]
    if not calls and not rest:
        return results

    turn = item | {content_key: rest}
    if calls:
        turn["tool_calls"] = calls

    return [*results, turn]


def _inside(part: Any, type_: str, keys: tuple[str, ...]) -> Part | None:
    """The call or result that a part is or holds; None for another part."""
    if not isinstance(part, dict):
        return None
    if part.get("type") == type_:
        return part

    for key in keys:
        if isinstance(part.get(key), dict):
            return dict(part[key])

    return None


def _as_call(part: Part) -> Part:
    call: Part = {
        "type": "function",
        "function": {
            "name": part.get("name"),
            "arguments": first_value(part, ARGUMENT_KEYS),
        },
    }

    call_id = first_value(part, ID_KEYS)
    if call_id is not None:
        call["id"] = call_id

    return call


def _as_turn(part: Part) -> Part:
    turn: Part = {
        "role": "tool",
        "content": _result_content(first_value(part, RESULT_CONTENT_KEYS)),
    }
    call_id = first_value(part, ID_KEYS)
    if call_id is not None:
        turn["tool_call_id"] = call_id

    # What is left is named as not used, such as is_error.
    used = {"type", *ID_KEYS, *RESULT_CONTENT_KEYS}
    for key, value in part.items():
        if key not in used:
            turn[key] = value

    return turn


def _result_content(content: Any) -> Any:
    """What a tool gave back, out of Bedrock's parts, which are known by their key and have no
    type."""
    if not isinstance(content, list) or len(content) != 1:
        return content

    (part,) = content
    if not isinstance(part, dict):
        return content

    for key in ("text", "json"):
        if set(part) == {key}:
            return part[key]

    return content
