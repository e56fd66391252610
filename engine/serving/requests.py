"""Requests to a model server of ours, read and checked: OpenAI's fields, and llama.cpp's beyond
them."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator

from engine.serving.sampling import Sampling

Form = TypeVar("Form", bound=BaseModel)

# OpenAI's bound.
MOST_LOGPROBS = 20
MOST_STOPS = 16
ROLES = {"developer": "system"}


class BadRequest(ValueError):
    """kind: of the error, as llama.cpp names it."""

    def __init__(self, message: str, kind: str = "invalid_request_error", **more: Any) -> None:
        super().__init__(message)
        self.body = {"error": {"code": 400, "message": message, "type": kind, **more}}


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _or_default(default: Any) -> BeforeValidator:
    """Clients send null for what they leave open."""
    return BeforeValidator(lambda value: default if value is None else value)


class StreamOptions(BaseModel):
    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of requests have. n: answers to each prompt."""

    temperature: Annotated[float, _or_default(1.0)] = Field(1.0, ge=0, le=100)
    top_k: Annotated[int, _or_default(0)] = Field(0, ge=-1)
    top_p: Annotated[float, _or_default(1.0)] = Field(1.0, ge=0, le=1)
    min_p: Annotated[float, _or_default(0.0)] = Field(0.0, ge=0, le=1)
    repeat_penalty: Annotated[float, _or_default(1.0)] = Field(1.0, gt=0)
    presence_penalty: Annotated[float, _or_default(0.0)] = 0.0
    frequency_penalty: Annotated[float, _or_default(0.0)] = 0.0
    seed: int | None = None
    stop: Annotated[list[str], _or_default([]), BeforeValidator(_listed)] = Field(
        [], max_length=MOST_STOPS
    )
    max_tokens: int | None = Field(None, ge=-1)
    n: Annotated[int, _or_default(1)] = Field(1, ge=1)
    stream: Annotated[bool, _or_default(False)] = False
    stream_options: StreamOptions | None = None
    model: Annotated[str, _or_default("model")] = "model"
    adapter: str = ""

    @property
    def top_logprobs_wanted(self) -> int | None:
        raise NotImplementedError

    def sampling(self, max_tokens: int, number: int) -> Sampling:
        """number: of the answer among `n`."""
        return Sampling(
            temperature=self.temperature,
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=None if self.seed is None else self.seed + number,
            stops=self.stop,
            max_tokens=max_tokens,
            top_logprobs=self.top_logprobs_wanted,
        )


class ChatRequest(Asked):
    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    max_completion_tokens: int | None = Field(None, ge=-1)
    logprobs: Annotated[bool, _or_default(False)] = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    @field_validator("messages")
    @classmethod
    def _messages(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_message(message) for message in messages]

    @property
    def top_logprobs_wanted(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def offered_tools(self) -> list[dict[str, Any]] | None:
        return self.tools or None if self.tool_choice != "none" else None


class CompletionRequest(Asked):
    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    @property
    def top_logprobs_wanted(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], int))
        return [prompt] if is_one else list(prompt)


class TokenizeRequest(BaseModel):
    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    # Whether the text is a conversation as the chat template wrote it, first token included.
    rendered: bool = False
    adapter: str = ""


class TemplateRequest(BaseModel):
    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    adapter: str = ""

    @field_validator("messages")
    @classmethod
    def _messages(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_message(message) for message in messages]


def request_read(form: type[Form], body: Any) -> Form:
    """Raises BadRequest with the first field that is wrong."""
    try:
        return form.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"Field '{field}': {first['msg']}") from error


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A turn as chat templates take it."""
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ValueError("each message needs a role")

    turn: dict[str, Any] = {"role": ROLES.get(role, role), "content": _text(message.get("content"))}
    for key in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(message.get(key), str):
            turn[key] = message[key]

    if message.get("tool_calls"):
        turn["tool_calls"] = [_call(call) for call in message["tool_calls"]]

    return turn


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""

    if not isinstance(content, list):
        raise ValueError("content is a text, or a list of parts")

    texts = []
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise ValueError("only parts of type text are read")

        texts.append(part["text"])

    return "".join(texts)


def _call(call: Any) -> dict[str, Any]:
    """With its arguments as an object, which templates want and OpenAI's API writes as a text."""
    try:
        function = call["function"]
        arguments = function["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "{}")

        read = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("a tool call has a function with a name and arguments in JSON") from error

    own_id = call.get("id")
    return read | ({"id": own_id} if isinstance(own_id, str) else {})
