"""Responses: made of what a model server answers in chat, whole or event by event."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Count, Sum
from django.utils import timezone

from core.text import storable
from core.web.in_thread import in_thread
from openai_api.errors import ApiProblem, missing
from openai_api.inference.answers import Asked
from openai_api.inference.chat import Chunks
from openai_api.inference.models import StoredResponse, response_id
from serving.answering import Data

KEPT = timedelta(days=30)
# Of one person. Each holds its whole conversation, so that a long one grows by its square.
MOST_STORED = 10_000
MOST_STORED_BYTES = 512 << 20
# What one may take at most: a conversation as long as is read, and its answer.
ROOM_BYTES = 64 << 20


@dataclass
class Response:
    """A response that is being made. messages: the conversation before it, without
    instructions."""

    owner: User
    sent: Mapping[str, Any]
    fields: Mapping[str, Any]
    messages: list[dict[str, Any]]
    identity: str = field(default_factory=response_id)
    created_at: int = field(default_factory=lambda: int(time.time()))

    def body(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """As the API has it."""
        sent, fields = self.sent, self.fields
        return {
            "id": self.identity,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": fields.get("instructions"),
            "max_output_tokens": fields.get("max_output_tokens"),
            "model": sent["model"],
            "output": output,
            "parallel_tool_calls": fields.get("parallel_tool_calls", True),
            "previous_response_id": fields.get("previous_response_id"),
            "store": self.is_stored,
            "temperature": _or_1(sent.get("temperature")),
            "text": {"format": {"type": "text"}} | fields.get("text", {}),
            "tool_choice": sent.get("tool_choice") or "auto",
            "tools": sent.get("tools") or [],
            "top_p": _or_1(sent.get("top_p")),
            "truncation": "disabled",
            "usage": None,
            "metadata": fields.get("metadata", {}),
        } | more

    @property
    def is_stored(self) -> bool:
        return bool(self.fields.get("store", True))

    def ended(
        self, message: dict[str, Any], finish: str | None, usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        """The whole response. message: what chat answered."""
        is_cut = finish == "length"
        return self.body(
            "incomplete" if is_cut else "completed",
            output_of(message, "incomplete" if is_cut else "completed"),
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
            completed_at=None if is_cut else int(time.time()),
            usage=usage_of(usage),
        )

    async def store(self, body: dict[str, Any], message: dict[str, Any]) -> None:
        if self.is_stored:
            turn = {"role": "assistant", "content": message.get("content") or ""}
            if message.get("tool_calls"):
                turn["tool_calls"] = message["tool_calls"]

            await in_thread(self._write, body, [*self.messages, turn])

    def _write(self, body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        body, messages = storable(body), storable(messages)
        StoredResponse.objects.create(
            public_id=self.identity,
            owner=self.owner,
            expires_at=timezone.now() + KEPT,
            body=body,
            messages=messages,
            size_bytes=len(json.dumps(body)) + len(json.dumps(messages)),
        )
        responses_bound(self.owner)


def _or_1(value: float | None) -> float:
    """OpenAI's default."""
    return 1 if value is None else value


def stored_response(identity: str, owner: User, *, param: str = "id") -> StoredResponse:
    """Raises ApiProblem (404) where there is none, or it has expired."""
    rows = StoredResponse.objects.filter(owner=owner, expires_at__gt=timezone.now())
    row = rows.filter(public_id=identity).first() if "\x00" not in identity else None
    if row is None:
        raise missing("response", identity, param=param)

    return row


def responses_bound(owner: User) -> None:
    """Remove the oldest of a person's responses until the newest are within the limits."""
    rows = StoredResponse.objects.filter(owner=owner).order_by("-pk")
    sizes = rows.aggregate(count=Count("pk"), size=Sum("size_bytes"))
    if sizes["count"] <= MOST_STORED and (sizes["size"] or 0) <= MOST_STORED_BYTES:
        return

    total = 0
    for place, (pk, size) in enumerate(rows.values_list("pk", "size_bytes")):
        total += size
        # The newest stays in any case: it has just been promised.
        if place and (place >= MOST_STORED or total > MOST_STORED_BYTES):
            StoredResponse.objects.filter(owner=owner, pk__lte=pk).delete()
            return


def responses_prune() -> None:
    expired = StoredResponse.objects.filter(expires_at__lt=timezone.now())
    if expired.exists():
        expired.delete()


def usage_of(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    if not usage:
        return None

    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached or 0, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
    }


# Items


def new_item_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def output_of(message: dict[str, Any], status: str) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or []
    items = []
    if message.get("content") or not calls:
        text = message.get("content") or ""
        items.append(message_item(new_item_id("msg"), status, [text_part(text, message)]))

    return items + [call_item(new_item_id("fc"), call, "completed") for call in calls]


def message_item(identity: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def text_part(text: str, message: Mapping[str, Any] | None = None) -> dict[str, Any]:
    logprobs = (message or {}).get("logprobs") or []
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def call_item(identity: str, call: Mapping[str, Any], status: str) -> dict[str, Any]:
    function = call.get("function") or {}
    return {
        "id": identity,
        "type": "function_call",
        "call_id": call.get("id") or "",
        "name": function.get("name") or "",
        "arguments": function.get("arguments") or "",
        "status": status,
    }


async def response_of_chat(response: Response, body: dict[str, Any]) -> dict[str, Any]:
    """What is sent of a whole answer of chat; it is stored before."""
    choice = body["choices"][0]
    message = dict(choice["message"])
    message["logprobs"] = (choice.get("logprobs") or {}).get("content") or []

    made = response.ended(message, choice.get("finish_reason"), body.get("usage"))
    await response.store(made, message)
    return made


# Events


class Events:
    """The events of a response, made of the chunks of chat."""

    def __init__(self, asked: Asked, response: Response) -> None:
        self.asked = asked
        self.response = response
        self.number = 0
        self.text_id = ""
        self.text = ""
        self.logprobs: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.call_ids: list[str] = []
        self.items: list[dict[str, Any]] = []
        self.finish: str | None = None
        self.usage: dict[str, Any] | None = None

    def event(self, kind: str, **data: Any) -> bytes:
        body = {"type": kind, "sequence_number": self.number} | data
        self.number += 1
        return f"event: {kind}\ndata: {json.dumps(body)}\n\n".encode()

    def failed(self, problem: ApiProblem) -> bytes:
        if not self.number:
            return self.event(
                "error",
                code=problem.code or None,
                message=problem.message,
                param=problem.param or None,
            )

        error = {"code": "server_error", "message": problem.message}
        body = self.response.body("failed", self.items, error=error)
        return self.event("response.failed", response=body)

    async def shape(self, parts: AsyncIterator[Data]) -> AsyncGenerator[bytes, None]:
        begun = self.response.body("in_progress", [])
        yield self.event("response.created", response=begun)
        yield self.event("response.in_progress", response=begun)

        chunks = Chunks(self.asked.question)
        async for chunk in chunks.read(parts):
            for sent in self._chunk(chunk):
                yield sent

        self.usage = chunks.usage
        self.asked.usage(self.usage)

        for sent in self._items_end():
            yield sent

        message = {"content": self.text, "tool_calls": self.calls}
        body = self.response.ended(message, self.finish, self.usage)
        body["output"] = self.items or body["output"]
        await self.response.store(body, message)

        kind = "incomplete" if body["status"] == "incomplete" else "completed"
        yield self.event(f"response.{kind}", response=body)

    def _chunk(self, chunk: dict[str, Any]) -> list[bytes]:
        sent: list[bytes] = []
        for choice in chunk.get("choices") or []:
            self.finish = choice.get("finish_reason") or self.finish
            delta = choice.get("delta") or {}
            if delta.get("content"):
                logprobs = (choice.get("logprobs") or {}).get("content") or []
                sent += self._text_delta(delta["content"], logprobs)
            for call in delta.get("tool_calls") or []:
                sent += self._call_delta(call)

        return sent

    def _text_delta(self, text: str, logprobs: list[dict[str, Any]]) -> list[bytes]:
        sent = []
        if not self.text_id:
            self.text_id = new_item_id("msg")
            self.items.append(message_item(self.text_id, "in_progress", []))
            sent.append(
                self.event(
                    "response.output_item.added",
                    output_index=len(self.items) - 1,
                    item=self.items[-1],
                )
            )
            sent.append(
                self.event("response.content_part.added", **self._place(), part=text_part(""))
            )

        self.text += text
        self.logprobs += logprobs
        sent.append(
            self.event("response.output_text.delta", **self._place(), delta=text, logprobs=logprobs)
        )
        return sent

    def _place(self) -> dict[str, Any]:
        """Where the text is."""
        index = next(place for place, item in enumerate(self.items) if item["id"] == self.text_id)
        return {"item_id": self.text_id, "output_index": index, "content_index": 0}

    def _call_delta(self, delta: dict[str, Any]) -> list[bytes]:
        """Its beginning has a name, what follows more of its arguments."""
        sent = []
        index = delta.get("index", 0)
        function = delta.get("function") or {}

        if index >= len(self.calls):
            call = {"id": delta.get("id") or new_item_id("call"), "type": "function"}
            call["function"] = {"name": function.get("name") or "", "arguments": ""}
            index = len(self.calls)
            self.calls.append(call)
            self.call_ids.append(new_item_id("fc"))
            self.items.append(call_item(self.call_ids[-1], call, "in_progress"))
            sent.append(
                self.event(
                    "response.output_item.added",
                    output_index=len(self.items) - 1,
                    item=dict(self.items[-1]),
                )
            )

        if function.get("arguments"):
            self.calls[index]["function"]["arguments"] += function["arguments"]
            place = self._call_place(index)
            kind = "response.function_call_arguments.delta"
            sent.append(self.event(kind, **place, delta=function["arguments"]))

        return sent

    def _call_place(self, index: int) -> dict[str, Any]:
        identity = self.call_ids[index]
        place = next(number for number, item in enumerate(self.items) if item["id"] == identity)
        return {"item_id": identity, "output_index": place}

    def _items_end(self) -> list[bytes]:
        sent = []
        status = "incomplete" if self.finish == "length" else "completed"

        if self.text_id:
            place = self._place()
            part = text_part(self.text, {"logprobs": self.logprobs})
            done = {"text": self.text, "logprobs": self.logprobs}
            sent.append(self.event("response.output_text.done", **place, **done))
            sent.append(self.event("response.content_part.done", **place, part=part))
            item = message_item(self.text_id, status, [part])
            sent.append(self._item_end(place["output_index"], item))

        for index, call in enumerate(self.calls):
            place = self._call_place(index)
            item = call_item(self.call_ids[index], call, "completed")
            kind = "response.function_call_arguments.done"
            names = {"name": item["name"], "arguments": item["arguments"]}
            sent.append(self.event(kind, **place, **names))
            sent.append(self._item_end(place["output_index"], item))

        return sent

    def _item_end(self, index: int, item: dict[str, Any]) -> bytes:
        self.items[index] = item
        return self.event("response.output_item.done", output_index=index, item=item)
