"""Chat and completions: what is sent of what a model server answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from openai_api.inference.bodies import Question
from serving.answering import Data

# What model servers call every model.
UNNAMED = b'"model":"model"'

Chunk = dict[str, Any]


class Chunks:
    """The events of a model server, as the client gets them. `usage` is that of all choices, once
    they have ended."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.name = b'"model":' + json.dumps(question.model).encode()
        # Reading each event would cost more than passing it on.
        self.reads_all = bool(question.logprobs)
        self.usage: dict[str, Any] | None = None
        self.last: Chunk = {}
        self.offsets: dict[int, int] = {}

    async def raw(self, parts: AsyncIterator[Data]) -> AsyncGenerator[bytes, None]:
        """JSON of each event, that with the count of tokens only where the client asked for it."""
        async for part in parts:
            if not self.reads_all and b'"usage"' not in part.payload:
                yield part.payload.replace(UNNAMED, self.name, 1)
                continue

            chunk = self._read(part.payload)
            if chunk.get("choices"):
                yield json.dumps(chunk).encode()

        if self.usage is not None and self.question.include_usage:
            yield json.dumps(self.last | {"choices": [], "usage": self.usage}).encode()

    async def read(self, parts: AsyncIterator[Data]) -> AsyncGenerator[Chunk, None]:
        """Each event that tells something of a choice."""
        async for part in parts:
            chunk = self._read(part.payload)
            if chunk.get("choices"):
                yield chunk

    def _read(self, payload: bytes) -> Chunk:
        chunk: Chunk = json.loads(payload)
        chunk["model"] = self.question.model
        self.last = chunk

        # llama.cpp counts each of several choices for itself.
        if usage := chunk.pop("usage", None):
            self.usage = usage if self.usage is None else usage_sum(self.usage, usage)
        for choice in chunk.get("choices") or []:
            choice_tidy(choice, self.question, self.offsets)

        return chunk


def usage_sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Of two choices of one prompt."""
    written = one["completion_tokens"] + other["completion_tokens"]
    return one | {
        "completion_tokens": written,
        "total_tokens": one["prompt_tokens"] + written,
    }


def whole_tidy(body: dict[str, Any], question: Question) -> dict[str, Any]:
    """A whole answer of a model server, as the client gets it."""
    body["model"] = question.model
    for choice in body.get("choices") or []:
        choice_tidy(choice, question, {})

    return body


async def whole_of_stream(chunks: Chunks, parts: AsyncIterator[Data]) -> dict[str, Any]:
    """The whole answer, put together of its events: of several choices servers count the tokens
    there alone."""
    choices: dict[int, dict[str, Any]] = {}
    async for chunk in chunks.read(parts):
        for choice in chunk["choices"]:
            _choice_add(choices, choice)

    body: dict[str, Any] = {
        name: chunks.last[name]
        for name in ("id", "created", "model", "system_fingerprint")
        if name in chunks.last
    }
    kind = "text_completion" if chunks.question.is_completion else "chat.completion"
    return {
        **body,
        "object": kind,
        "choices": [choices[index] for index in sorted(choices)],
        "usage": chunks.usage,
    }


def _choice_add(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    index = part["index"]
    choice = choices.setdefault(index, {"index": index, "finish_reason": None, "logprobs": None})
    choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]

    if part.get("logprobs"):
        have = choice["logprobs"] or {}
        choice["logprobs"] = {
            name: [*have.get(name, []), *values]
            for name, values in part["logprobs"].items()
            if isinstance(values, list)
        }
    if "text" in part:
        choice["text"] = choice.get("text", "") + part["text"]
        return

    message = choice.setdefault("message", {"role": "assistant", "content": ""})
    delta = part.get("delta") or {}
    message["content"] += delta.get("content") or ""
    for call in delta.get("tool_calls") or []:
        _call_add(message.setdefault("tool_calls", []), call)


def _call_add(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    function = part.get("function") or {}
    if part.get("index", 0) >= len(calls):
        named = {"name": function.get("name") or "", "arguments": ""}
        calls.append({"id": part.get("id") or "", "type": "function", "function": named})

    calls[part.get("index", 0)]["function"]["arguments"] += function.get("arguments") or ""


# Log-probabilities


def choice_tidy(choice: dict[str, Any], question: Question, offsets: dict[int, int]) -> None:
    """Log-probabilities in the form of the address that was asked. offsets: {choice: characters
    before this part of it}, kept up to date."""
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        return

    if not question.tops:
        for token in content:
            token["top_logprobs"] = []
    if question.is_completion:
        choice["logprobs"] = _of_completion(content, choice.get("index", 0), question, offsets)


def _of_completion(
    content: list[dict[str, Any]], index: int, question: Question, offsets: dict[int, int]
) -> dict[str, Any]:
    places = []
    for token in content:
        places.append(offsets.get(index, 0))
        offsets[index] = places[-1] + len(token["token"])

    tops = [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in content]
    return {
        "tokens": [token["token"] for token in content],
        "token_logprobs": [token["logprob"] for token in content],
        "top_logprobs": tops if question.tops else None,
        "text_offset": places,
    }
