"""Answers of a model, for pages and programs: from the gateway a lease of a model server, from that
server the answer. Everything here runs on the event loop and asks no database."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from core.web.open_streams import open_stream
from serving.leases import (
    NOT_THERE,
    Event,
    GatewayGone,
    Lease,
    Terms,
    gateway_post,
    lease,
    server_session,
)
from serving.targets import Placement

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

END = b"[DONE]"
# As any server writes it.
MODEL_NAME = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')
# What a request may say. Model servers know more words, by which a client could choose another
# adapter or slot.
_WORDS = """
    model messages prompt stream stream_options max_tokens max_completion_tokens temperature top_p
    top_k min_p typical_p presence_penalty frequency_penalty repeat_penalty repetition_penalty stop
    seed n logprobs top_logprobs logit_bias tools tool_choice parallel_tool_calls response_format
    json_schema echo suffix user input encoding_format dimensions add_generation_prompt
    chat_template_kwargs reasoning_effort content add_special parse_special with_pieces
    rendered
"""
# Others would wait while more than this is read as JSON.
LONG_BYTES = 1 << 18
FIELDS = frozenset(_WORDS.split())
# How many connections in a row may turn out to be closed.
STALE_CONNECTIONS = 3
LOST = "The model server ended in the middle of the answer. Ask again."

logger = logging.getLogger("deepextension.web")


@dataclass(frozen=True)
class State:
    """What happens before the first word. phase: "waiting", "preparing", "loading" or "ready".
    words: for people: "Loading the model (about 4 s)". progress: 0 to 1, None where nobody knows.
    backend: what answers, from "ready" on. note: what people should know of it, such as why
    llama.cpp does not serve this model. context: tokens of one conversation. abilities,
    most_choices: see engine.serving.order.Ready."""

    phase: str
    words: str
    progress: float | None = None
    backend: str = ""
    note: str = ""
    context: int = 0
    abilities: tuple[str, ...] = ()
    most_choices: int = 1


@dataclass(frozen=True)
class Data:
    """One server-sent event of the answer, without "data: " and without the last "[DONE]": JSON of
    a chat.completion.chunk or text_completion."""

    payload: bytes


class AnswerProblem(Exception):
    """Why there is no answer, or not all of it. status: as HTTP says it. code: of OpenAI's, such as
    "context_length_exceeded", or of ours: "device_busy", "server_lost", "not_loaded"."""

    def __init__(self, message: str, *, code: str, status: int = 503, param: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.param = param


async def answer_stream(
    placement: Placement, path: str, body: dict[str, Any], *, background: bool = False
) -> AsyncGenerator[State | Data, None]:
    """The answer to a request as OpenAI's API has it (`body`, with "model" as the client wrote it,
    which the answer repeats; "stream" is set here), as it comes.

    path: CHAT or COMPLETIONS. background: as for `answer`. Closing the generator ends the
    generation within a token. Raises AnswerProblem, also in the middle of an answer where its
    server is lost.
    """
    with open_stream():
        async with _leased(placement, Terms(background=background)) as leased:
            ready: Event = {}
            async with aclosing(_states(leased)) as states:
                async for ready in states:
                    yield _state(ready)

            server = Server(leased, ready)
            name = ModelName(body.get("model", ""))
            async with (
                server.asked(path, body | {"stream": True}) as response,
                aclosing(server.payloads(response)) as payloads,
            ):
                async for payload in payloads:
                    yield Data(name.put(payload))


async def answer(
    placement: Placement,
    path: str,
    body: dict[str, Any],
    *,
    on_state: Callable[[State], None] = lambda state: None,
    background: bool = False,
) -> dict[str, Any]:
    """The whole answer at once, as the server gives it. Raises AnswerProblem.

    on_state: gets each State before the answer, "ready" included; what it raises ends this and
    reaches the caller. background: it has its turn only while nobody else waits.
    """
    with open_stream():
        async with _served(placement, Terms(background=background), on_state) as server:
            reply = await server.post(path, body | {"stream": False})
            return reply | {"model": body.get("model", "")}


async def loaded_context(placement: Placement) -> int:
    """Tokens of one conversation of the model server that has it loaded now; 0 where none has.
    Raises AnswerProblem where the gateway is not there."""
    try:
        reply = await gateway_post("/loaded", placement.to_json())
    except GatewayGone as error:
        raise _gone() from error

    return int(reply.get("context", 0))


@dataclass(frozen=True)
class Piece:
    """A token of a prompt. special: whether it is a mark of the template and no text."""

    id: int
    text: str
    special: bool


@dataclass(frozen=True)
class Prompt:
    """A conversation with the beginning of an answer, as the model reads it. count: its tokens.
    context: tokens of one conversation of that model server. pieces: none where only the count was
    asked for."""

    count: int
    context: int
    pieces: list[Piece]


async def prompt_read(
    placement: Placement,
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]] | None = None,
    load: bool = False,
    with_pieces: bool = True,
) -> Prompt:
    """load: whether the model is loaded for it; else AnswerProblem "not_loaded" where it is not."""
    conversation: dict[str, Any] = {"messages": messages, "add_generation_prompt": True}
    if tools:
        conversation["tools"] = tools

    terms = Terms(load=load, marks=with_pieces, answers=False)
    async with _served(placement, terms) as server:
        rendered = await server.post("/apply-template", conversation)
        tokenized = await server.post(
            "/tokenize",
            {
                "content": rendered["prompt"],
                "add_special": True,
                "parse_special": True,
                "with_pieces": with_pieces,
                "rendered": True,
            },
        )

    tokens: list[Any] = tokenized["tokens"]
    pieces: list[Piece] = []
    if with_pieces:
        pieces = await asyncio.to_thread(_pieces, tokens, set(server.ready["marks"]))

    return Prompt(len(tokens), int(server.ready["context"]), pieces)


def _pieces(tokens: list[dict[str, Any]], marks: set[int]) -> list[Piece]:
    found = [(int(token["id"]), _text(token["piece"])) for token in tokens]
    return [Piece(number, text, number in marks) for number, text in found]


def _text(piece: str | list[int]) -> str:
    """Of a token that is a part of a character a server tells the bytes."""
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", "replace")


async def warm(placement: Placement) -> None:
    """Have the gateway load the model now, since a question is likely; does not wait for it."""
    try:
        await gateway_post("/warm", placement.to_json())
    except GatewayGone as error:
        raise _gone() from error


# Leases


@asynccontextmanager
async def _leased(placement: Placement, terms: Terms) -> AsyncIterator[Lease]:
    """Raises AnswerProblem where the gateway is not there."""
    try:
        async with lease(placement, terms) as leased:
            yield leased
    except GatewayGone as error:
        raise _gone() from error


@asynccontextmanager
async def _served(
    placement: Placement,
    terms: Terms,
    on_state: Callable[[State], None] = lambda state: None,
) -> AsyncIterator[Server]:
    """The server, once it answers. Raises AnswerProblem."""
    async with _leased(placement, terms) as leased:
        ready: Event = {}
        async with aclosing(_states(leased)) as states:
            async for ready in states:
                on_state(_state(ready))

        yield Server(leased, ready)


async def _states(leased: Lease) -> AsyncGenerator[Event, None]:
    """Events up to "ready", that included. Raises AnswerProblem where there is none."""
    async with aclosing(leased.events()) as events:
        async for event in events:
            if event["phase"] in ("refused", "lost"):
                raise AnswerProblem(event["message"], code=event["code"], status=event["status"])

            yield event
            if event["phase"] == "ready":
                return

    raise GatewayGone(NOT_THERE)


def _state(event: Event) -> State:
    is_ready = event["phase"] == "ready"
    return State(
        phase=event["phase"],
        words=event.get("words", "Answering" if is_ready else ""),
        progress=event.get("progress"),
        backend=event.get("backend", ""),
        note=event.get("note", ""),
        context=event.get("context", 0),
        abilities=tuple(event.get("abilities", ())),
        most_choices=event.get("most_choices", 1),
    )


def _gone() -> AnswerProblem:
    return AnswerProblem(NOT_THERE, code="server_lost")


# The model server


class Server:
    """A model server as the holder of a lease sees it."""

    def __init__(self, leased: Lease, ready: Event) -> None:
        self.leased = leased
        self.ready = ready
        self.headers = {"Authorization": f"Bearer {ready['key']}"}

    @asynccontextmanager
    async def asked(self, path: str, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Its response with status 200, closed at the end. Raises AnswerProblem."""
        try:
            known = {name: value for name, value in body.items() if name in FIELDS}
            response = await self._send(path, known | self.ready["extras"])
        except (aiohttp.ClientError, OSError) as error:
            raise await self._lost(error) from error

        try:
            if response.status != 200:
                raise await self._refusal(response)

            yield response
        finally:
            # Where it still writes, it sees at once that nobody reads.
            if not response.content.is_eof():
                response.close()

            response.release()

    async def _send(self, path: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
        url = f"{self.ready['url']}{path}"
        for _ in range(STALE_CONNECTIONS):
            try:
                return await server_session().post(url, json=body, headers=self.headers)
            except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
                raise
            except aiohttp.ClientConnectionError as error:
                # A connection that rested, closed at that very moment: nothing was answered.
                logger.info("a connection of a model server was closed: %r", error)

        return await server_session().post(url, json=body, headers=self.headers)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.asked(path, body) as response:
            try:
                content = await response.read()
                reply: dict[str, Any] = (
                    json.loads(content)
                    if len(content) < LONG_BYTES
                    else await asyncio.to_thread(json.loads, content)
                )
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise await self._lost(error) from error

            return reply

    async def payloads(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """What its server-sent events hold, as it is. Raises AnswerProblem where they end without
        the last one."""
        try:
            async with aclosing(event_payloads(response.content)) as payloads:
                async for payload in payloads:
                    if payload == END:
                        return
                    if payload.startswith(b'{"error"'):
                        raise _refused(200, _json(payload))

                    yield payload
        except (aiohttp.ClientError, OSError) as error:
            raise await self._lost(error) from error

        raise await self._lost()

    async def _lost(self, error: Exception | None = None) -> AnswerProblem:
        why = await self.leased.why_lost()
        if why is None:
            # It lives as far as the gateway knows.
            logger.warning("an answer of a model server broke off: %r", error)
            return AnswerProblem(LOST, code="server_lost")

        return AnswerProblem(why["message"], code=why["code"], status=why["status"])

    async def _refusal(self, response: aiohttp.ClientResponse) -> AnswerProblem:
        try:
            content = await response.read()
        except (aiohttp.ClientError, OSError):
            return await self._lost()

        return _refused(response.status, _json(content))


class ModelName:
    """Puts the name that the client wrote into chunks that have the server's own."""

    def __init__(self, name: str) -> None:
        self.name = b'"model":' + json.dumps(name).encode()
        self.own = b""

    def put(self, payload: bytes) -> bytes:
        # Nothing is parsed for it: within a text, quotes have a backslash before them.
        if not self.own:
            found = MODEL_NAME.search(payload)
            self.own = found[0] if found is not None else b""

        return payload.replace(self.own, self.name, 1) if self.own else payload


async def event_payloads(stream: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event of a stream, one line each as OpenAI's API has it."""
    rest = b""
    async for piece in stream.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}

    return found if isinstance(found, dict) else {}


def _refused(status: int, reply: dict[str, Any]) -> AnswerProblem:
    """The problem that a server's own error is: {"error": {message, type, …}}."""
    error = reply.get("error")
    if not isinstance(error, dict):
        error = {"message": str(error or "The model server did not answer.")}

    message = str(error.get("message", ""))
    if error.get("type") == "exceed_context_size_error" or error.get("code") == TOO_LONG:
        return _too_long(error)

    # Whatever else it says of the request is the client's; its own faults are ours.
    by_client = status in (400, 404, 422) or error.get("type") == "invalid_request_error"
    if by_client:
        return AnswerProblem(
            message,
            code=str(error.get("code") or "invalid_request")
            if not isinstance(error.get("code"), int)
            else "invalid_request",
            status=400,
            param=str(error.get("param") or ""),
        )

    return AnswerProblem(f"The model could not answer: {message}", code="server_error", status=500)


TOO_LONG = "context_length_exceeded"


def _too_long(error: dict[str, Any]) -> AnswerProblem:
    asked, most = error.get("n_prompt_tokens"), error.get("n_ctx")
    if asked is None or most is None:
        return AnswerProblem(str(error.get("message")), code=TOO_LONG, status=400, param="messages")

    return AnswerProblem(
        f"This model's maximum context length is {most} tokens. However, your messages resulted in "
        f"{asked} tokens. Please reduce the length of the messages.",
        code=TOO_LONG,
        status=400,
        param="messages",
    )
