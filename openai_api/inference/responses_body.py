"""Requests for responses, as a question of chat."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from openai_api.errors import ApiProblem
from openai_api.inference.bodies import Question, chat_question
from openai_api.inference.fields import (
    Field,
    boolean,
    fields_take,
    integer,
    mapping,
    mapping_of_texts,
    missing_field,
    not_supported,
    refuse,
    text,
    texts,
    wrong_type,
)

FIELDS = {
    "instructions": Field(text),
    "max_output_tokens": Field(integer(1, 1 << 30)),
    "metadata": Field(mapping_of_texts),
    "parallel_tool_calls": Field(boolean),
    "previous_response_id": Field(text),
    "store": Field(boolean),
    "stream": Field(boolean),
    "text": Field(mapping),
    "top_logprobs": Field(integer(0, 20)),
    "include": Field(texts(20)),
}
REFUSED = ("background", "conversation", "prompt", "moderation", "max_tool_calls")
# Where chat calls a field otherwise.
CALLED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "logprobs": "top_logprobs",
}
QUOTED = re.compile(r"'([a-z_]+(?:\.[\w.\[\]]*)?)'")
LOGPROBS = "message.output_text.logprobs"


def fields_of(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ApiProblem by the name of the field."""
    refuse(sent, REFUSED)
    if sent.get("truncation") not in (None, "disabled"):
        raise not_supported("truncation", ": shorten the conversation yourself")

    return fields_take(sent, FIELDS)


def responses_question(
    sent: Mapping[str, Any], fields: Mapping[str, Any], messages: list[dict[str, Any]]
) -> Question:
    """messages: the conversation up to the answer, without instructions. Raises ApiProblem."""
    body = {
        name: sent.get(name)
        for name in ("model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream")
    }
    instructions = fields.get("instructions")
    before = [{"role": "system", "content": instructions}] if instructions else []
    body["messages"] = [*before, *messages]

    body["max_tokens"] = fields.get("max_output_tokens")
    body["parallel_tool_calls"] = fields.get("parallel_tool_calls")
    body["response_format"] = _format(fields.get("text", {}).get("format"))
    body["tools"], body["tool_choice"] = _tools(sent.get("tools")), _choice(sent)

    if LOGPROBS in fields.get("include", []) or fields.get("top_logprobs"):
        body["logprobs"] = True
        body["top_logprobs"] = fields.get("top_logprobs", 0)

    try:
        question = chat_question(body)
    except ApiProblem as problem:
        problem.param = _called(problem.param)
        problem.message = QUOTED.sub(lambda name: f"'{_called(name[1])}'", problem.message)
        raise

    needs = {ability: _called(name) for ability, name in question.needs.items()}
    return replace(question, needs=needs)


def _called(name: str) -> str:
    head, separator, rest = name.partition(".")
    return f"{CALLED.get(head, head)}{separator}{rest}"


# Input


def messages_of_input(given: Any) -> list[dict[str, Any]]:
    """What the client adds to the conversation, as messages. Raises ApiProblem."""
    if given is None:
        raise missing_field("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise wrong_type("input", "a string or an array of items", given)

    messages: list[dict[str, Any]] = []
    for place, item in enumerate(given):
        name = f"input.[{place}]"
        mapping(item, name)
        _item_add(messages, item, name)

    return messages


def _item_add(messages: list[dict[str, Any]], item: dict[str, Any], name: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        messages.append({"role": item.get("role"), "content": item.get("content")})
    elif kind == "function_call":
        _call_add(messages, item, name)
    elif kind == "function_call_output":
        text(item.get("call_id"), f"{name}.call_id")
        output = item.get("output")
        messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": output})
    elif kind != "reasoning":
        raise ApiProblem(
            f"Items of the type '{str(kind)[:40]}' are not known here.",
            param=f"{name}.type",
            code="unsupported_value",
        )


def _call_add(messages: list[dict[str, Any]], item: dict[str, Any], name: str) -> None:
    """Calls of one turn are one message, with the text before them."""
    for key in ("call_id", "name", "arguments"):
        text(item.get(key), f"{name}.{key}")

    if not messages or messages[-1].get("role") != "assistant":
        messages.append({"role": "assistant", "content": ""})

    messages[-1].setdefault("tool_calls", []).append(
        {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": item["arguments"]},
        }
    )


# Tools and forms of answers


def _tools(tools: Any) -> Any:
    if not isinstance(tools, list):
        return tools

    found = []
    for place, tool in enumerate(tools):
        mapping(tool, f"tools.[{place}]")
        names = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in names if tool.get(name) is not None}
        found.append({"type": tool.get("type"), "function": function})

    return found


def _choice(sent: Mapping[str, Any]) -> Any:
    choice = sent.get("tool_choice")
    if isinstance(choice, dict):
        return {"type": choice.get("type"), "function": {"name": choice.get("name")}}

    return choice


def _format(wanted: Any) -> Any:
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return wanted

    names = ("name", "schema", "strict", "description")
    schema = {name: wanted[name] for name in names if wanted.get(name) is not None}
    return {"type": "json_schema", "json_schema": schema}
