"""Answers of a model, for pages and programs: from the gateway a lease of a model server, from that
server the answer. Everything here runs on the event loop and asks no database."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from serving.targets import Placement

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True)
class State:
    """What happens before the first word. phase: "waiting", "preparing", "loading" or "ready".
    words: for people: "Loading the model (about 4 s)". progress: 0 to 1, None where nobody knows.
    backend: what answers, from "ready" on. note: what people should know of it, such as why
    llama.cpp does not serve this model. context: tokens of one conversation. abilities: see
    engine.serving.order.Ready."""

    phase: str
    words: str
    progress: float | None = None
    backend: str = ""
    note: str = ""
    context: int = 0
    abilities: tuple[str, ...] = ()


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
    placement: Placement, path: str, body: dict[str, Any]
) -> AsyncGenerator[State | Data, None]:
    """The answer to a request as OpenAI's API has it (`body`, with "model" as the client wrote it,
    which the answer repeats; "stream" is set here), as it comes.

    path: CHAT or COMPLETIONS. Closing the generator ends the generation within a token. Raises
    AnswerProblem, also in the middle of an answer where its server is lost.
    """
    raise NotImplementedError
    yield State("", "")


async def answer(placement: Placement, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The whole answer at once, as the server gives it. Raises AnswerProblem."""
    raise NotImplementedError


@dataclass(frozen=True)
class Piece:
    """A token of a prompt. special: whether it is a mark of the template and no text."""

    id: int
    text: str
    special: bool


async def prompt_pieces(
    placement: Placement,
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]] | None = None,
    load: bool = False,
) -> list[Piece]:
    """The exact tokens of a conversation with the beginning of an answer, as the model reads them.

    load: whether the model is loaded for it; else AnswerProblem "not_loaded" where it is not."""
    raise NotImplementedError


async def warm(placement: Placement) -> None:
    """Have the gateway load the model now, since a question is likely; does not wait for it."""
    raise NotImplementedError
