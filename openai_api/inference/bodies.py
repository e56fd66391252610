"""Requests for chat and completions, as the model server gets them.

It gets what is written here and nothing else of a request: what a server would understand beyond
that, such as whose adapter answers, is not for clients to say. Fields that only matter to a service
that is paid (store, user, service_tier, metadata …) and unknown ones are taken and do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openai_api.errors import ApiProblem
from openai_api.inference.fields import (
    Field,
    boolean,
    fields_take,
    integer,
    mapping,
    missing_field,
    model_name,
    not_supported,
    number,
    refuse,
    text,
    texts,
    wrong_type,
)

MOST_ANSWERS = 16
MOST_TOKENS = 1 << 30
MOST_TOOLS = 128
# Beyond any context that is served, and still read in a moment.
MOST_CHARACTERS = 4_000_000

SAMPLING = {
    "temperature": Field(number(0, 2)),
    "top_p": Field(number(0, 1)),
    "top_k": Field(integer(0, 1_000_000)),
    "min_p": Field(number(0, 1), needs="min_p"),
    "frequency_penalty": Field(number(-2, 2), needs="penalties"),
    "presence_penalty": Field(number(-2, 2), needs="penalties"),
    "seed": Field(integer(-(2**63), 2**63 - 1), needs="seed"),
    "stop": Field(texts(4)),
    "max_tokens": Field(integer(1, MOST_TOKENS)),
    "n": Field(integer(1, MOST_ANSWERS), needs="n"),
    "stream": Field(boolean),
    "stream_options": Field(mapping),
}
CHAT = SAMPLING | {
    "max_completion_tokens": Field(integer(1, MOST_TOKENS)),
    "logprobs": Field(boolean, needs="logprobs"),
    "top_logprobs": Field(integer(0, 20), needs="logprobs"),
    "response_format": Field(mapping),
    "parallel_tool_calls": Field(boolean),
}
COMPLETIONS = SAMPLING | {
    "logprobs": Field(integer(0, 5), needs="logprobs"),
    "echo": Field(boolean),
    "best_of": Field(integer(1, MOST_ANSWERS)),
    "suffix": Field(text),
}
# What would change the answer, and is not there.
REFUSED = (
    "audio",
    "functions",
    "function_call",
    "logit_bias",
    "prediction",
    "web_search_options",
)
ROLES = ("system", "developer", "user", "assistant", "tool")
# What does nothing at its default, and so needs no ability.
NEUTRAL = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0, "min_p": 0, "logprobs": False}


@dataclass(frozen=True)
class Question:
    """body: for the model server. needs: {ability: the field that needs it}. stream: whether the
    client wants the answer as it comes. include_usage: and then the tokens at its end. logprobs:
    whether it wants log-probabilities; tops: of how many tokens beside each that was chosen.
    is_completion: whether they are written as completions have them."""

    model: str
    body: dict[str, Any]
    needs: dict[str, str] = field(default_factory=dict)
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    tops: int = 0
    is_completion: bool = False

    @property
    def choices(self) -> int:
        return int(self.body.get("n", 1))


def chat_question(sent: Mapping[str, Any]) -> Question:
    """Raises ApiProblem by the name of the field."""
    model = model_name(sent)
    refuse(sent, REFUSED)
    if sent.get("modalities") not in (None, ["text"]):
        raise not_supported("modalities", ": models answer with text")

    body = fields_take(sent, CHAT)
    needs = _needs(body, CHAT)
    body["messages"] = messages_of(sent.get("messages"))

    most = body.pop("max_completion_tokens", None)
    if most is not None:
        body["max_tokens"] = most
    if "top_logprobs" in body and not body.get("logprobs"):
        raise ApiProblem(
            "'top_logprobs' is for requests with 'logprobs': true.", param="top_logprobs"
        )

    tops = body.get("top_logprobs", 0)
    logprobs = body.get("logprobs", False)
    if logprobs:
        # For none llama.cpp tells 20 of them, and for 0 not even those that were chosen.
        body["top_logprobs"] = max(1, tops)

    _response_format(body, needs)
    _tools(sent, body, needs)
    return _question(model, body, needs, logprobs=logprobs, tops=tops)


def completion_question(sent: Mapping[str, Any]) -> Question:
    """Raises ApiProblem by the name of the field."""
    model = model_name(sent)
    refuse(sent, ("logit_bias",))
    body = fields_take(sent, COMPLETIONS)
    needs = _needs(body, COMPLETIONS)
    body["prompt"] = _prompt(sent.get("prompt"))

    for name in ("echo", "suffix"):
        if body.pop(name, None):
            raise not_supported(name)
    if body.pop("best_of", 1) not in (1, body.get("n", 1)):
        raise not_supported("best_of", ": ask for n answers and choose")

    tops, logprobs = body.get("logprobs", 0), "logprobs" in body
    if logprobs:
        body["logprobs"] = max(1, tops)

    more = {"logprobs": logprobs, "tops": tops, "is_completion": True}
    return _question(model, body, needs, **more)


def _question(model: str, body: dict[str, Any], needs: dict[str, str], **more: Any) -> Question:
    stream = body.pop("stream", False)
    options = body.pop("stream_options", {})
    if options and not stream:
        raise ApiProblem(
            "'stream_options' is for requests with 'stream': true.", param="stream_options"
        )

    body = body | {"model": model}
    return Question(model, body, needs, stream, bool(options.get("include_usage")), **more)


def _needs(body: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in body.items():
        ability = fields[name].needs
        if ability and (name not in NEUTRAL or value != NEUTRAL[name]):
            found.setdefault(ability, name)

    return found


# Messages


def messages_of(messages: Any) -> list[dict[str, Any]]:
    """The conversation with its contents as texts. Raises ApiProblem."""
    if messages is None:
        raise missing_field("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise ApiProblem(
            "Invalid 'messages': empty array. Expected at least one message.",
            param="messages",
            code="empty_array",
        )

    found = [_message(message, f"messages.[{place}]") for place, message in enumerate(messages)]
    _require_length(sum(len(message["content"]) for message in found), "messages")
    return found


def _message(message: Any, name: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise wrong_type(name, "an object", message)

    role = message.get("role")
    if role not in ROLES:
        raise ApiProblem(
            f"Invalid value: '{str(role)[:40]}'. Supported values are: {', '.join(ROLES)}.",
            param=f"{name}.role",
            code="invalid_value",
        )

    # Templates know no developer: it is what newer models call the system.
    found = {"role": "system" if role == "developer" else role}
    found["content"] = _content(message.get("content"), f"{name}.content", role)

    if role == "assistant" and message.get("tool_calls"):
        found["tool_calls"] = _tool_calls(message["tool_calls"], f"{name}.tool_calls")
    if role == "tool":
        text(message.get("tool_call_id"), f"{name}.tool_call_id")
        found["tool_call_id"] = message["tool_call_id"]

    return found


def _content(content: Any, name: str, role: str) -> str:
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":
        return ""
    if isinstance(content, list):
        return "".join(_part(part, f"{name}.[{place}]") for place, part in enumerate(content))

    raise wrong_type(name, "a string or an array of parts", content)


def _part(part: Any, name: str) -> str:
    if not isinstance(part, dict):
        raise wrong_type(name, "an object", part)

    kind = part.get("type")
    if kind in ("text", "input_text", "output_text"):
        text(part.get("text"), f"{name}.text")
        return str(part["text"])
    if kind == "refusal":
        text(part.get("refusal"), f"{name}.refusal")
        return str(part["refusal"])

    raise ApiProblem(
        f"Models read text alone here, and no part of the type '{str(kind)[:40]}'.",
        param=f"{name}.type",
        code="unsupported_content",
    )


def _tool_calls(calls: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise wrong_type(name, "an array", calls)

    found = []
    for place, call in enumerate(calls):
        at = f"{name}.[{place}]"
        mapping(call, at)
        mapping(call.get("function"), f"{at}.function")
        function = call["function"]
        text(call.get("id"), f"{at}.id")
        text(function.get("name"), f"{at}.function.name")
        text(function.get("arguments"), f"{at}.function.arguments")
        found.append(
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": function["name"], "arguments": function["arguments"]},
            }
        )

    return found


def _prompt(prompt: Any) -> str:
    if prompt is None:
        raise missing_field("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, list):
        raise not_supported("prompt", " as an array: send one request for each prompt")

    text(prompt, "prompt")
    _require_length(len(prompt), "prompt")
    return str(prompt)


def _require_length(characters: int, name: str) -> None:
    if characters > MOST_CHARACTERS:
        raise ApiProblem(
            f"'{name}' has {characters:,} characters; the most that is read is "
            f"{MOST_CHARACTERS:,}.",
            param=name,
            code="context_length_exceeded",
        )


# Forms of answers, tools


def _response_format(body: dict[str, Any], needs: dict[str, str]) -> None:
    wanted = body.get("response_format")
    if wanted is None:
        return

    kind = wanted.get("type")
    if kind == "text":
        del body["response_format"]
    elif kind == "json_object":
        needs["json_object"] = "response_format"
    elif kind == "json_schema":
        schema = wanted.get("json_schema")
        mapping(schema, "response_format.json_schema")
        mapping(schema.get("schema"), "response_format.json_schema.schema")
        needs["json_schema"] = "response_format"
    else:
        raise ApiProblem(
            f"Invalid value: '{str(kind)[:40]}'. Supported values are: text, json_object, "
            "json_schema.",
            param="response_format.type",
            code="invalid_value",
        )


def _tools(sent: Mapping[str, Any], body: dict[str, Any], needs: dict[str, str]) -> None:
    tools, choice = sent.get("tools"), sent.get("tool_choice")
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ApiProblem("'tool_choice' is for requests with 'tools'.", param="tool_choice")

        body.pop("parallel_tool_calls", None)
        return

    if not isinstance(tools, list):
        raise wrong_type("tools", "an array of objects", tools)
    if len(tools) > MOST_TOOLS:
        raise ApiProblem(
            f"'tools' has {len(tools)} entries; the most is {MOST_TOOLS}.",
            param="tools",
            code="array_above_max_length",
        )

    for place, tool in enumerate(tools):
        _tool_check(tool, f"tools.[{place}]")

    body["tools"] = tools
    needs["tools"] = "tools"
    if choice is not None:
        body["tool_choice"] = _tool_choice(choice, tools, body)


def _tool_check(tool: Any, name: str) -> None:
    mapping(tool, name)
    if tool.get("type") != "function":
        raise ApiProblem(
            f"Tools are functions here, and not '{str(tool.get('type'))[:40]}'.",
            param=f"{name}.type",
            code="unsupported_value",
        )

    mapping(tool.get("function"), f"{name}.function")
    text(tool["function"].get("name"), f"{name}.function.name")
    if tool["function"].get("parameters") is not None:
        mapping(tool["function"]["parameters"], f"{name}.function.parameters")


def _tool_choice(choice: Any, tools: list[dict[str, Any]], body: dict[str, Any]) -> str:
    """Model servers know words alone: of a function that must be called they get nothing but that
    one, and that one must be called."""
    if choice in ("none", "auto", "required"):
        return str(choice)

    function = choice.get("function") if isinstance(choice, dict) else None
    wanted = function.get("name") if isinstance(function, dict) else None
    chosen = [tool for tool in tools if wanted and tool["function"]["name"] == wanted]
    if not chosen:
        raise ApiProblem(
            "'tool_choice' is none, auto, required, or a function of 'tools'.",
            param="tool_choice",
            code="invalid_value",
        )

    body["tools"] = chosen
    return "required"
