"""The transformers backend's endpoints: llama.cpp's form of OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from engine.serving.answers import Answer, Ended, Piece
from engine.serving.endpoints import Endpoints, body_read
from engine.serving.generation import End, Task, Token, Writer
from engine.serving.requests import (
    Asked,
    BadRequest,
    ChatRequest,
    CompletionRequest,
    request_read,
)
from engine.serving.variants import Variant, Variants

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Form:
    """How answers of one kind are written. name, chunk_name: of the object, whole and in parts.
    prefix: of ids."""

    name: str
    chunk_name: str
    prefix: str
    is_chat: bool


CHAT = Form("chat.completion", "chat.completion.chunk", "chatcmpl", is_chat=True)
TEXT = Form("text_completion", "text_completion", "cmpl", is_chat=False)


class Api(Endpoints):
    """context: tokens of one conversation. most_choices: the largest `n`."""

    def __init__(
        self, writer: Writer, variants: Variants, key: str, *, context: int, most_choices: int
    ) -> None:
        super().__init__(variants, key)
        self.writer = writer
        self.context = context
        self.most_choices = most_choices

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = request_read(ChatRequest, await body_read(request))
        variant = self.variant(asked.adapter)
        tools = asked.offered_tools
        _chat_check(asked, variant)

        def tokens() -> list[int]:
            return variant.ids(variant.prompt(asked.messages, tools))

        prompt = await asyncio.to_thread(tokens)
        wanted = asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens
        answers = self._answers(asked, variant, [prompt], wanted, tools=bool(tools))
        return await self._send(request, asked, answers, CHAT)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = request_read(CompletionRequest, await body_read(request))
        variant = self.variant(asked.adapter)
        prompts = [
            given if isinstance(given, list) else variant.ids(given, begins=True)
            for given in asked.prompts
        ]
        answers = self._answers(asked, variant, prompts, asked.max_tokens, tools=False)
        return await self._send(request, asked, answers, TEXT)

    # Answers

    def _answers(
        self,
        asked: Asked,
        variant: Variant,
        prompts: list[list[int]],
        wanted: int | None,
        *,
        tools: bool,
    ) -> list[Answer]:
        """wanted: tokens of each answer at most, None or -1 for all that the context has room
        for."""
        if asked.n > self.most_choices:
            raise BadRequest(
                f"Field 'n': Value must be between 1 <= value <= {self.most_choices}, but got "
                f"{asked.n}"
            )

        for prompt in prompts:
            self._length_check(prompt)

        answers = []
        for prompt in prompts:
            room = self.context - len(prompt)
            most = room if wanted is None or wanted < 0 else min(wanted, room)
            for number in range(asked.n):
                sampling = asked.sampling(max(1, most), number)
                calls = variant.calls if tools else None
                answers.append(Answer(variant, prompt, sampling, calls))

        return answers

    def _length_check(self, prompt: list[int]) -> None:
        if not prompt:
            raise BadRequest("The prompt is empty.")

        if len(prompt) >= self.context:
            raise BadRequest(
                f"request ({len(prompt)} tokens) exceeds the available context size "
                f"({self.context} tokens), try increasing it",
                "exceed_context_size_error",
                n_prompt_tokens=len(prompt),
                n_ctx=self.context,
            )

    async def _send(
        self, request: web.Request, asked: Asked, answers: list[Answer], form: Form
    ) -> web.StreamResponse:
        reply = Reply(form, asked.model, secrets.token_hex(12), int(time.time()))
        news = self._write(answers)
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return await _stream(request, reply, answers, news, with_usage=with_usage)

        async for _ in news:
            pass

        problem = next((answer.problem for answer in answers if answer.problem), "")
        if problem:
            error = {"code": 500, "message": problem, "type": "server_error"}
            return web.json_response({"error": error}, status=500)

        return web.json_response(reply.whole(answers))

    async def _write(self, answers: list[Answer]) -> AsyncIterator[tuple[int, Piece | Ended]]:
        """(number of the answer, what is new of it), until all have ended. Closing it ends the
        generation."""
        loop = asyncio.get_running_loop()
        said: asyncio.Queue[tuple[int, Token | End]] = asyncio.Queue()
        tasks = []
        for number, answer in enumerate(answers):

            def say(news: Token | End, number: int = number) -> None:
                loop.call_soon_threadsafe(said.put_nowait, (number, news))

            task = Task(
                answer.prompt, answer.variant.adapter, answer.sampling, answer.variant.ends, say
            )
            tasks.append(task)
            self.writer.add(task)

        try:
            while not all(answer.has_ended for answer in answers):
                number, news = await said.get()
                for piece in answers[number].take(news):
                    yield number, piece
                if answers[number].has_ended:
                    tasks[number].left.set()
        finally:
            for task in tasks:
                task.left.set()


@dataclass(frozen=True)
class Reply:
    """What an answer looks like to programs."""

    form: Form
    model: str
    id: str
    created: int

    def whole(self, answers: list[Answer]) -> dict[str, Any]:
        choices = [self._choice(number, answer) for number, answer in enumerate(answers)]
        return self._head(self.form.name) | {"choices": choices, "usage": usage(answers)}

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return self._head(self.form.chunk_name) | {"choices": choices} | more

    def _head(self, name: str) -> dict[str, Any]:
        return {
            "id": f"{self.form.prefix}-{self.id}",
            "object": name,
            "created": self.created,
            "model": self.model,
        }

    def _choice(self, number: int, answer: Answer) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": number, "finish_reason": answer.finish_reason}
        if answer.log_probs is not None:
            choice["logprobs"] = {"content": answer.log_probs}

        if not self.form.is_chat:
            return choice | {"text": answer.text}

        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.calls:
            message["tool_calls"] = answer.calls
            message["content"] = answer.text or None

        return choice | {"message": message}

    def begin(self, number: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": None}
        return self.chunk([{"index": number, "finish_reason": None, "delta": delta}])

    def piece(self, number: int, piece: Piece) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": number, "finish_reason": None}
        if piece.log_probs:
            choice["logprobs"] = {"content": piece.log_probs}

        if not self.form.is_chat:
            return self.chunk([choice | {"text": piece.text}])

        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if piece.calls:
            delta["tool_calls"] = [
                {"index": place} | call for place, call in enumerate(piece.calls)
            ]

        return self.chunk([choice | {"delta": delta}])

    def end(self, number: int, answer: Answer) -> dict[str, Any]:
        what: dict[str, Any] = {"delta": {}} if self.form.is_chat else {"text": ""}
        reason = answer.finish_reason
        return self.chunk([{"index": number, "finish_reason": reason} | what])


def usage(answers: list[Answer]) -> dict[str, int]:
    # The prompt of several answers to it counts once.
    prompts = {id(answer.prompt): len(answer.prompt) for answer in answers}
    read, written = sum(prompts.values()), sum(answer.count for answer in answers)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


def timings(answers: list[Answer]) -> dict[str, Any]:
    """How long a single answer was written, from its first token on, as llama.cpp's server tells it:
    what is sent of it may be held back. {} for several."""
    if len(answers) != 1 or answers[0].first_at is None or answers[0].last_at is None:
        return {}

    written = answers[0].last_at - answers[0].first_at
    return {"timings": {"predicted_n": answers[0].count, "predicted_ms": 1000 * written}}


async def _stream(
    request: web.Request,
    reply: Reply,
    answers: list[Answer],
    news: AsyncIterator[tuple[int, Piece | Ended]],
    *,
    with_usage: bool,
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)

    async def send(message: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(message).encode() + b"\n\n")

    if reply.form.is_chat:
        for number in range(len(answers)):
            await send(reply.begin(number))

    async for number, part in news:
        if isinstance(part, Piece):
            await send(reply.piece(number, part))
        elif part.problem:
            await send({"error": {"code": 500, "message": part.problem, "type": "server_error"}})
            return response
        else:
            await send(reply.end(number, answers[number]))

    if with_usage:
        await send(reply.chunk([], usage=usage(answers), **timings(answers)))

    await response.write(DONE)
    return response


def _chat_check(asked: ChatRequest, variant: Variant) -> None:
    """Raises BadRequest for what this backend has not."""
    form = (asked.response_format or {}).get("type", "text")
    if form != "text":
        raise BadRequest(f"This model's server cannot hold answers to the format {form!r}.")

    if asked.offered_tools and variant.calls is None:
        raise BadRequest("This model's chat template has no place for tools.")

    if asked.offered_tools and asked.tool_choice not in (None, "auto"):
        raise BadRequest("This model's server cannot force a tool call: leave tool_choice at auto.")
