"""An answer as it is written: from the model server to the reader, and at its end into the database.

Server-sent events:

    event: state     what happens before the first word, as serving.answering.State
    data: …          a chunk of the answer, as OpenAI's API has it
    event: failed    {"message", "code"}: there is no answer, or not all of it
    event: done      the answer as it is stored

While it is written, the answer is told every BEAT_SECONDS that somebody does: a process that is
killed, and a database that is away at the end, leave none that seems to be written for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from core.web.in_thread import in_thread
from core.web.open_streams import open_stream
from playground.models import BEAT_SECONDS, Answer
from playground.services import answer_beat, answer_end, answer_unwritten
from playground.visibility import HIDDEN_PROBLEM
from serving.answering import CHAT, AnswerProblem, Data, State, answer_stream
from serving.targets import Placement

logger = logging.getLogger("deepextension.web")

FAULT = "An error of the platform ended this answer."
NOT_STORED = "This answer could not be saved: the database does not respond."
NO_TOOLS = (
    "This model cannot be offered tools: its chat template has no place for them, or writes calls in "
    "a form that cannot be read. Take the tools out of the settings, or ask another model."
)
# How often that is tried, and how many seconds apart.
TRIES = 3
TRY_AGAIN_AFTER = 1.0
# What is told before the first word of an answer whose model is hidden: words of other lengths of
# time and kinds of models would tell it.
HIDDEN_WORDS = {
    "waiting": "Waiting",
    "preparing": "Preparing the model",
    "loading": "Loading the model",
    "ready": "Answering",
}

# Tasks that outlive the stream that began them; the event loop itself keeps none.
_storing: set[asyncio.Task[bool]] = set()


@dataclass
class Asked:
    """answer: its id. writer: as services.answer_begin gave it. hidden: whether nobody may know yet
    which model answers. seen: makes what is told of the stored answer, and asks the database.
    has_begun: whether a part of the stream was ever asked for."""

    answer: int
    writer: str
    placement: Placement
    body: dict[str, Any]
    hidden: bool
    seen: Callable[[int], dict[str, Any]]
    has_begun: bool = False

    def close(self) -> None:
        """For the end of the response: a generator that nobody began cannot say that it ends."""
        if not self.has_begun:
            answer_unwritten(self.answer, self.writer)


@dataclass
class Written:
    """What has come of an answer. began: when it was asked for. ready: when the model had its turn,
    after others and after it was loaded. timings: of the server itself, where it tells them."""

    began: float = field(default_factory=time.monotonic)
    ready: float | None = None
    first: float | None = None
    last: float | None = None
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    pieces: int = 0
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = ""

    def hear(self, state: State, body: dict[str, Any]) -> None:
        """Raises AnswerProblem for what the model's server cannot do."""
        if state.phase != "ready":
            return

        self.ready = time.monotonic()
        if wants_tools(body) and "tools" not in state.abilities:
            raise AnswerProblem(NO_TOOLS, code="unsupported", status=400)

    def take(self, payload: bytes) -> None:
        """Read a chunk; what cannot be read has no words."""
        try:
            chunk = json.loads(payload)
        except ValueError:
            return

        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        if isinstance(chunk.get("timings"), dict):
            self.timings = chunk["timings"]

        for choice in chunk.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            self._take_delta(choice.get("delta") or {})

    def _take_delta(self, delta: dict[str, Any]) -> None:
        words = delta.get("content") or ""
        thoughts = delta.get("reasoning_content") or delta.get("reasoning") or ""
        calls = delta.get("tool_calls") or []
        if not (words or thoughts or calls):
            return

        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last

        self.pieces += 1
        self.text.append(words)
        self.reasoning.append(thoughts)
        for call in calls:
            self._take_call(call)

    def _take_call(self, part: dict[str, Any]) -> None:
        """Calls come in pieces: the name first, then the arguments."""
        index = part.get("index", len(self.calls))
        whole = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call = self.calls.setdefault(index, whole)
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}

        for name in ("name", "arguments"):
            call["function"][name] += function.get(name) or ""

    def values(self, state: str, error: str) -> dict[str, Any]:
        """The columns of the answer."""
        first_seconds = None
        if self.first is not None:
            first_seconds = self.first - (self.began if self.ready is None else self.ready)

        return {
            "state": state,
            "error": error,
            "text": "".join(self.text),
            "reasoning": "".join(self.reasoning),
            "tool_calls": calls_with_ids([self.calls[index] for index in sorted(self.calls)]),
            "prompt_tokens": self.usage.get("prompt_tokens"),
            "tokens": self.tokens,
            "rate": self.rate,
            "first_seconds": first_seconds,
            "seconds": time.monotonic() - self.began,
            "finish_reason": self.finish_reason[:40],
        }

    @property
    def tokens(self) -> int:
        """Where the server was stopped before it counted: the pieces that came, of which each is a
        token or some."""
        counted: int = self.usage.get("completion_tokens", self.pieces)
        return counted

    @property
    def rate(self) -> float | None:
        """Tokens a second from the first one on, which comes with the reading of the prompt; None
        where nobody knows. What the server measured itself counts: calls of tools come all at once,
        when the last of their tokens is written."""
        count, milliseconds = self.timings.get("predicted_n"), self.timings.get("predicted_ms")
        if isinstance(count, int) and isinstance(milliseconds, int | float):
            return (count - 1) / (milliseconds / 1000) if count > 1 and milliseconds > 0 else None

        if self.first is None or self.last is None or self.calls or self.pieces < 2:
            return None

        return (self.tokens - 1) / max(self.last - self.first, 1e-3)


def wants_tools(body: dict[str, Any]) -> bool:
    return bool(body.get("tools")) or any(
        message["role"] == "tool" for message in body.get("messages", ())
    )


def calls_with_ids(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each with an id of its own, by which its result is told: some models write none, or the same
    ones again."""
    seen: set[str] = set()
    for number, call in enumerate(calls, start=1):
        if not call["id"] or call["id"] in seen:
            call["id"] = f"call_{number}_{secrets.token_hex(4)}"

        seen.add(call["id"])

    return calls


async def written(asked: Asked) -> AsyncGenerator[bytes, None]:
    """The events of an answer. What has come when its reader leaves is stored all the same."""
    asked.has_begun = True
    with open_stream():
        beats = asyncio.create_task(_beats(asked))
        try:
            async with aclosing(_written(asked)) as events:
                async for event in events:
                    yield event
        finally:
            beats.cancel()


async def _beats(asked: Asked) -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        # Without the database nobody can read that it is taken for lost either.
        with suppress(Exception):
            await in_thread(answer_beat, asked.answer, asked.writer)


async def _written(asked: Asked) -> AsyncGenerator[bytes, None]:
    so_far = Written()
    state: str = Answer.State.STOPPED
    problem: AnswerProblem | None = None

    try:
        stream = answer_stream(asked.placement, CHAT, asked.body)
        async with aclosing(stream) as parts:
            async for part in parts:
                if isinstance(part, State):
                    so_far.hear(part, asked.body)
                    yield state_event(part, hidden=asked.hidden)
                else:
                    so_far.take(part.payload)
                    yield data_event(part, hidden=asked.hidden)

        state = Answer.State.DONE
    except AnswerProblem as error:
        problem = error
    except Exception:
        logger.exception("answer %s ended by a fault", asked.answer)
        problem = AnswerProblem(FAULT, code="error", status=500)
    finally:
        if problem is not None:
            state = Answer.State.FAILED

        values = so_far.values(state, problem.message if problem is not None else "")
        # A reader who leaves cancels this task, but not the writing down.
        storing = asyncio.create_task(_store(asked, values))
        _storing.add(storing)
        storing.add_done_callback(_storing.discard)
        is_stored = await asyncio.shield(storing)

    yield await _last_event(asked, problem, is_stored)


async def _store(asked: Asked, values: dict[str, Any]) -> bool:
    """False where the database has not answered."""
    for left in reversed(range(TRIES)):
        try:
            await in_thread(answer_end, asked.answer, asked.writer, values)
            return True
        except Exception:
            logger.exception("answer %s was not stored", asked.answer)
            await asyncio.sleep(TRY_AGAIN_AFTER if left else 0)

    return False


async def _last_event(asked: Asked, problem: AnswerProblem | None, is_stored: bool) -> bytes:
    if problem is None and is_stored:
        try:
            return event("done", await in_thread(asked.seen, asked.answer))
        except Exception:
            logger.exception("answer %s was not read", asked.answer)

    if problem is None:
        problem = AnswerProblem(NOT_STORED, code="error", status=500)
    elif asked.hidden:
        problem = AnswerProblem(HIDDEN_PROBLEM, code="error")

    return event("failed", {"message": problem.message, "code": problem.code})


def state_event(state: State, *, hidden: bool) -> bytes:
    values = asdict(state)
    if hidden:
        # What serves a model can tell which one it is.
        words = HIDDEN_WORDS.get(state.phase, "Waiting")
        values = asdict(State(state.phase, words))

    return event("state", values)


def data_event(data: Data, *, hidden: bool) -> bytes:
    payload = data.payload
    if hidden:
        payload = _without_speed(payload)

    return b"data: " + payload + b"\n\n"


def _without_speed(payload: bytes) -> bytes:
    """A chunk with its words alone: model names, counts and times could tell which model it is."""
    try:
        chunk = json.loads(payload)
    except ValueError:
        return b"{}"

    return json.dumps({"choices": chunk.get("choices") or []}).encode()


def event(name: str, values: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(values)}\n\n".encode()
