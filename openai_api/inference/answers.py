"""A model's answer as a response: whole, or as it comes. Nothing here holds a thread."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse

from core.web.later import LaterResponse
from openai_api.errors import ApiProblem
from openai_api.inference.abilities import abilities_check
from openai_api.inference.bodies import Question
from openai_api.inference.calls import CLIENT_LEFT, call_record_later
from openai_api.inference.chat import Chunks, whole_of_stream, whole_tidy
from openai_api.inference.models import Call
from serving.answering import AnswerProblem, Data, State, answer, answer_stream
from serving.targets import Placement

# Until a stream begins with comments its errors have statuses of their own; most models are loaded
# by then.
HOLD_BACK_SECONDS = 8.0
# Proxies and clients give up a connection on which nothing comes for longer.
ALIVE_SECONDS = 10.0

# Events of an answer that wait for a client that reads slowly.
AHEAD = 64

Part = State | Data
# Makes what is sent of the answer's events.
Shape = Callable[[AsyncIterator[Data]], AsyncGenerator[bytes, None]]

DONE = b"data: [DONE]\n\n"

logger = logging.getLogger("deepextension.openai")


@dataclass
class Asking:
    """A question that may be asked. path: of the model server."""

    placement: Placement
    path: str
    question: Question

    def able(self, state: State) -> None:
        """Raises ApiProblem for what the model server cannot do."""
        if state.phase == "ready":
            abilities_check(self.question.needs, state.abilities, state.backend)


@dataclass
class Asked(Asking):
    """A request that is answered, and what becomes of it for the list of calls."""

    request: HttpRequest
    call: Call

    def __post_init__(self) -> None:
        self.began_at = time.perf_counter()

    def usage(self, usage: dict[str, Any] | None) -> None:
        if usage:
            self.call.tokens_in = usage.get("prompt_tokens")
            self.call.tokens_out = usage.get("completion_tokens")

    async def ended(self, status: int, code: str = "") -> None:
        self.call.status = status
        self.call.code = code[:60]
        self.call.seconds = time.perf_counter() - self.began_at
        await call_record_later(self.call, self.request)


def problem_of_answer(problem: AnswerProblem | ApiProblem) -> ApiProblem:
    if isinstance(problem, ApiProblem):
        return problem

    return ApiProblem(
        problem.message,
        status=problem.status,
        param=problem.param,
        code=problem.code,
        retry_after=5 if problem.status in (429, 503) else None,
    )


def broken_off() -> ApiProblem:
    return ApiProblem("An error of the platform ended this answer.", status=500)


def refusal(problem: ApiProblem) -> JsonResponse:
    response = JsonResponse(problem.body, status=problem.status)
    if problem.retry_after:
        response["Retry-After"] = str(problem.retry_after)

    return response


def chat_events(asked: Asked) -> Shape:
    """The events of chat and completions."""

    async def shape(parts: AsyncIterator[Data]) -> AsyncGenerator[bytes, None]:
        chunks = Chunks(asked.question)
        try:
            async for payload in chunks.raw(parts):
                yield event(payload)
        finally:
            asked.usage(chunks.usage)

        yield DONE

    return shape


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


# The whole answer


def whole(asked: Asked, shape: Callable[[dict[str, Any]], Any] | None = None) -> LaterResponse:
    """shape: makes what is sent of what the model server answered; may ask the event loop to
    wait."""

    async def decide() -> HttpResponseBase:
        status, code = CLIENT_LEFT, ""
        try:
            answered = await answer_whole(asked)
            asked.usage(answered.get("usage"))
            body = answered if shape is None else await shape(answered)
            status = 200
            return JsonResponse(body)
        except (AnswerProblem, ApiProblem) as error:
            problem = problem_of_answer(error)
            status, code = problem.status, problem.code
            return refusal(problem)
        except Exception:
            status = 500
            raise
        finally:
            # Also where the client has left, and this is cancelled.
            await asyncio.shield(asked.ended(status, code))

    return LaterResponse(decide)


async def answer_whole(asking: Asking, *, background: bool = False) -> dict[str, Any]:
    """As the client gets it. background: after all others. Raises AnswerProblem and ApiProblem."""
    question = asking.question
    if question.choices == 1:
        body = await answer(
            asking.placement,
            asking.path,
            question.body,
            on_state=asking.able,
            background=background,
        )
        return whole_tidy(body, question)

    question.body.update(WITH_USAGE)
    pump = Pump(asking, background=background)
    try:
        return await whole_of_stream(Chunks(question), pump.data())
    finally:
        await pump.close()


# The answer as it comes

# Servers count the tokens of a stream where they are asked to.
WITH_USAGE = {"stream_options": {"include_usage": True}}


def streamed(
    asked: Asked, shape: Shape, failed: Callable[[ApiProblem], bytes] | None = None
) -> LaterResponse:
    """failed: the last event of an answer that breaks off; OpenAI's error by default."""

    asked.question.body.update(WITH_USAGE)

    async def decide() -> HttpResponseBase:
        pump = Pump(asked)
        try:
            await pump.fill(HOLD_BACK_SECONDS)
        except (AnswerProblem, ApiProblem) as error:
            problem = problem_of_answer(error)
            await asked.ended(problem.status, problem.code)
            return refusal(problem)
        except asyncio.CancelledError:
            await asyncio.shield(pump.close())
            await asyncio.shield(asked.ended(CLIENT_LEFT))
            raise

        body = _sent(asked, pump, shape, failed or (lambda problem: event(problem.body)))
        return Stream(body, pump)

    return LaterResponse(decide)


class Stream(StreamingHttpResponse):
    """Ends the generation when it is closed, also where nothing was sent of it: a client may leave
    before."""

    def __init__(self, body: AsyncGenerator[bytes, None], pump: Pump) -> None:
        super().__init__(body, content_type="text/event-stream; charset=utf-8")
        self["Cache-Control"] = "no-store"
        self["X-Accel-Buffering"] = "no"
        self.loop = asyncio.get_running_loop()
        self.pump = pump

    def close(self) -> None:
        """In whichever thread."""
        super().close()
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.pump.task.cancel)


async def _sent(
    asked: Asked, pump: Pump, shape: Shape, failed: Callable[[ApiProblem], bytes]
) -> AsyncGenerator[bytes, None]:
    status, code = CLIENT_LEFT, ""
    try:
        async for comment in pump.comments():
            yield comment

        async with aclosing(shape(pump.data())) as events:
            async for part in events:
                yield part

        status = 200
    except (AnswerProblem, ApiProblem) as error:
        problem = problem_of_answer(error)
        status, code = problem.status, problem.code
        yield failed(problem)
    except Exception:
        # The status has been sent: what went wrong can only be said by an event.
        logger.exception("an answer broke off")
        status = 500
        yield failed(broken_off())
    finally:
        await asyncio.shield(pump.close())
        await asyncio.shield(asked.ended(status, code))


class Pump:
    """Runs an answer in one task of its own, so that whoever sends it can do something while nothing
    comes. Made on the event loop. What is read of it raises AnswerProblem and ApiProblem.

    background: it has its turn only while nobody else waits."""

    def __init__(self, asking: Asking, *, background: bool = False) -> None:
        self.asking = asking
        self.background = background
        self.queue: asyncio.Queue[Part | None] = asyncio.Queue(AHEAD)
        self.first: Data | None = None
        self.ended = False
        self.words = ""
        self.problem: AnswerProblem | ApiProblem | None = None
        self.task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        asking = self.asking
        parts = answer_stream(
            asking.placement, asking.path, asking.question.body, background=self.background
        )
        try:
            async with aclosing(parts):
                async for part in parts:
                    if isinstance(part, State):
                        asking.able(part)
                    await self.queue.put(part)
        except (AnswerProblem, ApiProblem) as error:
            self.problem = error
        except asyncio.CancelledError:
            # By us, and then nobody reads, or because this process ends.
            self.problem = ApiProblem(
                "The platform is being restarted. Try again.", status=503, code="server_lost"
            )
            with suppress(asyncio.QueueFull):
                self.queue.put_nowait(None)
            raise
        except Exception:
            logger.exception("an answer broke off")
            self.problem = broken_off()

        await self.queue.put(None)

    async def fill(self, seconds: float) -> None:
        """Until the first word or the end is there, or for so long."""
        until = time.monotonic() + seconds
        while not self.has_begun and (left := until - time.monotonic()) > 0:
            await self.step(left)

    @property
    def has_begun(self) -> bool:
        return self.first is not None or self.ended

    async def step(self, seconds: float) -> None:
        """The next part, if it comes within so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._note(await self.queue.get())

    async def comments(self) -> AsyncGenerator[bytes, None]:
        """What happens before the first word, for clients that show it and against those that would
        think the connection dead."""
        while not self.has_begun:
            yield f": {self.words or 'Waiting'}\n\n".encode()
            await self.step(ALIVE_SECONDS)

    async def data(self) -> AsyncGenerator[Data, None]:
        if self.first is not None:
            yield self.first

        while not self.ended:
            part = await self.queue.get()
            self._note(part)
            if isinstance(part, Data):
                yield part

    def _note(self, part: Part | None) -> None:
        if isinstance(part, Data):
            self.first = part
        elif isinstance(part, State):
            self.words = " ".join(part.words.split())
        else:
            self.ended = True
            if self.problem is not None:
                raise self.problem

    async def close(self) -> None:
        """Ends the generation, and waits until it has ended."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
