"""Calls of tools and their results that stand among the parts of a content, as turns of their own.

Standard library only. OpenAI's API gives calls beside the content, and each result as a turn of a
tool. Anthropic's, Gemini's and Bedrock's APIs give both as parts: a call within the assistant's
content, a result within the user's."""

from __future__ import annotations

from typing import Any

Part = dict[str, Any]

# Objects within a part, under these keys; Anthropic's part is the object itself, told by its type.
CALL_KEYS = ("toolUse", "functionCall", "function_call")
RESULT_KEYS = ("toolResult", "functionResponse", "function_response")
CALL_TYPE, RESULT_TYPE = "tool_use", "tool_result"

ID_KEYS = ("tool_use_id", "toolUseId", "id")
ARGUMENT_KEYS = ("input", "args", "arguments")
GIVEN_KEYS = ("content", "response", "output")


def split_tool_parts(item: Part, content_key: str) -> list[Part]:
    """The turn as it is, or as turns in the form of OpenAI's API where its content holds calls or
    results.

    Results come first, and what the user says beside them is a turn behind them.
    """
    content = item.get(content_key)
    if not isinstance(content, list) or not any(_call(part) or _result(part) for part in content):
        return [item]

    calls = [_as_call(found) for part in content if (found := _call(part))]
    results = [_as_turn(found) for part in content if (found := _result(part))]
    rest = [part for part in content if not _call(part) and not _result(part)]
    if not calls and not rest:
        return results

    text_turn = item | {content_key: rest}
    return [*results, text_turn | {"tool_calls": calls} if calls else text_turn]


def _call(part: Any) -> Part | None:
    return _inside(part, CALL_TYPE, CALL_KEYS)


def _result(part: Any) -> Part | None:
    return _inside(part, RESULT_TYPE, RESULT_KEYS)


def _inside(part: Any, type_: str, keys: tuple[str, ...]) -> Part | None:
    if not isinstance(part, dict):
        return None
    if part.get("type") == type_:
        return part

    return next((part[key] for key in keys if isinstance(part.get(key), dict)), None)


def _as_call(found: Part) -> Part:
    call: Part = {
        "type": "function",
        "function": {"name": found.get("name"), "arguments": _first(found, ARGUMENT_KEYS)},
    }
    given = _first(found, ID_KEYS)
    return call | {"id": given} if given is not None else call


def _as_turn(found: Part) -> Part:
    used = {"type", *ID_KEYS, *GIVEN_KEYS}
    turn: Part = {"role": "tool", "content": _given(_first(found, GIVEN_KEYS))}
    given = _first(found, ID_KEYS)
    if given is not None:
        turn["tool_call_id"] = given

    # What is left is named as not used, such as is_error.
    return turn | {key: value for key, value in found.items() if key not in used}


def _given(content: Any) -> Any:
    """What a tool gave back, out of Bedrock's parts, which are told by their key and have no
    type."""
    if not isinstance(content, list) or len(content) != 1 or not isinstance(content[0], dict):
        return content

    (part,) = content
    return next((part[key] for key in ("text", "json") if set(part) == {key}), content)


def _first(found: Part, keys: tuple[str, ...]) -> Any:
    return next((found[key] for key in keys if found.get(key) is not None), None)
