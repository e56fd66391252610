"""An answer while it is written. What writes here is a generator of the test in place of the model
server, which can stop, fail and wait as a test wants; the real one is asked in tests/browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError, connections

from core.web import in_thread
from playground import streaming
from playground.api import AnswerResponse
from playground.models import Answer
from playground.services import answer_begin, answer_end
from playground.streaming import Asked, written
from playground.visibility import stored_answer_seen
from serving.answering import AnswerProblem, Data, State
from serving.targets import Placement
from tests.playground.conftest import answer_of, ask

pytestmark = pytest.mark.django_db(transaction=True)

LOADING = State("loading", "Loading the model (about 4 s)")
READY = State(
    "ready", "Answering", backend="llama.cpp", note="Base", context=8192, abilities=("tools",)
)


def chunk(words: str = "", **choice: Any) -> Data:
    delta = {"content": words} if words else {}
    choices = [{"index": 0, "delta": delta, **choice}]
    return Data(json.dumps({"model": "model-1", "choices": choices}).encode())


USAGE = Data(b'{"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3}}')


@pytest.fixture(autouse=True)
def connections_closed():
    """The threads of the event loop have connections of their own, which the database outlives."""
    yield
    for _ in range(8):
        in_thread._threads.submit(connections.close_all).result()


@pytest.fixture
def said(monkeypatch) -> Callable[..., None]:
    """Have the model server say that: states, chunks, seconds to wait, an exception."""

    def say(*parts: Any) -> None:
        async def stream(*_: Any) -> AsyncGenerator[State | Data, None]:
            for part in parts:
                if isinstance(part, Exception):
                    raise part

                if isinstance(part, int | float):
                    await asyncio.sleep(part)
                else:
                    yield part

        monkeypatch.setattr(streaming, "answer_stream", stream)

    return say


@pytest.fixture
def answer(make_conversation) -> Answer:
    answer = answer_of(ask(make_conversation(), "One?"), 0)
    answer.writer = answer_begin(answer)
    assert answer.writer
    return answer


def asked(answer: Answer, *, hidden: bool = False) -> Asked:
    placement = Placement("model-1", "/nowhere")
    body: dict[str, Any] = {"messages": []}
    return Asked(answer.pk, answer.writer, placement, body, hidden, stored_answer_seen)


def events(job: Asked, *, leave_after: int | None = None) -> list[tuple[str, Any]]:
    """(name, data) of each event, until the end or until the reader leaves."""

    async def read() -> list[bytes]:
        got = []
        async with aclosing(written(job)) as parts:
            async for part in parts:
                got.append(part)
                if len(got) == leave_after:
                    break

        return got

    found = []
    for part in asyncio.run(read()):
        *head, data = part.decode().strip().split("\n")
        name = head[0].removeprefix("event: ") if head else "chunk"
        found.append((name, json.loads(data.removeprefix("data: "))))

    return found


def test_a_whole_answer_is_stored_with_its_figures(said, answer):
    said(
        LOADING, READY, chunk("Open "), 0.05, chunk("Settings"), chunk(finish_reason="stop"), USAGE
    )
    got = events(asked(answer))
    names = [name for name, _ in got]
    assert names == ["state", "state", *["chunk"] * 4, "done"]
    answer.refresh_from_db()
    assert (answer.state, answer.text, answer.finish_reason) == ("done", "Open Settings", "stop")
    assert (answer.prompt_tokens, answer.tokens) == (12, 3)
    assert answer.rate is not None
    assert 2 / 5 < answer.rate < 2 / 0.05
    assert got[-1][1]["text"] == "Open Settings"


def test_what_came_is_stored_when_its_reader_leaves(said, answer):
    said(READY, chunk("Open "), chunk("Settings"), 3600)
    events(asked(answer), leave_after=3)
    answer.refresh_from_db()
    assert (answer.state, answer.text) == ("stopped", "Open Settings")


def test_what_came_is_stored_when_the_stream_is_cut_off(said, answer):
    """As the web server does with a client that is gone while the model thinks."""
    said(READY, chunk("Open "), 3600)

    async def cut() -> None:
        async def read() -> None:
            async for _ in written(asked(answer)):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # The database is written in a thread, which the task does not wait for any more.
        await asyncio.sleep(0.3)

    asyncio.run(cut())
    answer.refresh_from_db()
    assert (answer.state, answer.text) == ("stopped", "Open ")


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (AnswerProblem("The model server ended.", code="server_lost"), "The model server ended."),
        (ValueError("a fault"), streaming.FAULT),
    ],
)
def test_what_breaks_off_says_so_and_keeps_what_came(said, answer, problem, words):
    said(READY, chunk("Open "), problem)
    name, data = events(asked(answer))[-1]
    assert (name, data["message"]) == ("failed", words)
    answer.refresh_from_db()
    assert (answer.state, answer.text, answer.error) == ("failed", "Open ", words)


def test_tool_calls_and_reasoning_come_in_pieces(said, answer):
    first = {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"city"'}}
    rest = {"index": 0, "function": {"arguments": ': "Bern"}'}}
    said(
        READY,
        chunk(delta={"reasoning_content": "Which "}),
        chunk(delta={"reasoning_content": "city?"}),
        chunk(delta={"tool_calls": [first]}),
        chunk(delta={"tool_calls": [rest]}),
        chunk(finish_reason="tool_calls"),
    )
    events(asked(answer))
    answer.refresh_from_db()
    assert answer.reasoning == "Which city?"
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    assert answer.tool_calls == [{"id": "c1", "type": "function", "function": function}]


def test_calls_without_ids_of_their_own_get_some(said, answer):
    """By these their results are told."""
    calls = [
        {"index": index, "id": call_id, "function": {"name": "f", "arguments": "{}"}}
        for index, call_id in enumerate(("", "same", "same"))
    ]
    said(READY, chunk(delta={"tool_calls": calls}))
    events(asked(answer))
    answer.refresh_from_db()
    ids = [call["id"] for call in answer.tool_calls]
    assert len({*ids, ""}) == 4
    assert ids[1] == "same"


@pytest.mark.parametrize("asked_for", ["tools", "results"])
def test_a_model_without_tools_says_so_before_it_is_asked(said, answer, asked_for):
    said(replace(READY, abilities=()), chunk("Nonsense"))
    job = asked(answer)
    if asked_for == "tools":
        job.body["tools"] = [{"type": "function", "function": {"name": "f"}}]
    else:
        job.body["messages"] = [{"role": "tool", "content": "4"}]

    name, data = events(job)[-1]
    assert (name, data["message"]) == ("failed", streaming.NO_TOOLS)
    answer.refresh_from_db()
    assert (answer.state, answer.text) == ("failed", "")


# Figures


def test_waiting_for_others_and_for_the_model_counts_for_nothing(said, answer):
    said(LOADING, 0.4, READY, chunk("Open "), 0.1, chunk("Settings"), USAGE)
    events(asked(answer))
    answer.refresh_from_db()
    assert answer.first_seconds < 0.3 < answer.seconds
    assert 2 / 0.3 < answer.rate < 2 / 0.09


def test_what_the_server_measured_itself_is_its_speed(said, answer):
    """A call of a tool comes all at once, when its last token is written."""
    timings = b'{"choices": [], "timings": {"predicted_n": 41, "predicted_ms": 2000.0}}'
    calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]
    said(READY, chunk("Let me see. "), chunk(delta={"tool_calls": calls}), Data(timings))
    events(asked(answer))
    answer.refresh_from_db()
    assert answer.rate == 20


@pytest.mark.parametrize(
    "parts",
    [
        [chunk(delta={"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}), USAGE],
        [chunk("All at once"), USAGE],
        [chunk("One")],
    ],
)
def test_a_speed_that_nobody_knows_is_not_told(said, answer, parts):
    said(READY, *parts)
    events(asked(answer))
    answer.refresh_from_db()
    assert answer.rate is None


def test_what_a_model_thinks_is_a_part_of_its_length_and_speed(said, answer):
    thoughts = [chunk(delta={"reasoning_content": f"{number} "}) for number in range(2)]
    usage = Data(b'{"choices": [], "usage": {"completion_tokens": 9}}')
    said(READY, thoughts[0], 0.2, thoughts[1], 0.2, chunk("So."), usage)
    events(asked(answer))
    answer.refresh_from_db()
    assert answer.tokens == 9
    assert answer.first_seconds < 0.15
    assert 8 / 0.6 < answer.rate < 8 / 0.39


def test_a_stream_that_nobody_begins_to_read_leaves_no_answer_that_is_written_for_ever(
    said, answer
):
    said(READY, chunk("Open "))
    response = AnswerResponse(asked(answer))

    async def leave() -> None:
        await response.streaming_content.aclose()

    asyncio.run(leave())
    response.close()
    answer.refresh_from_db()
    assert answer.state == "stopped"


def test_who_writes_says_so_all_the_time(said, answer, monkeypatch):
    monkeypatch.setattr(streaming, "BEAT_SECONDS", 0.05)
    Answer.objects.filter(pk=answer.pk).update(heard_at=None)
    said(READY, 0.5, chunk("Open "))
    events(asked(answer))
    answer.refresh_from_db()
    assert answer.heard_at is not None


@pytest.mark.parametrize(("failures", "name"), [(1, "done"), (9, "failed")])
def test_a_database_that_is_away_at_the_end_is_asked_again(
    said, answer, monkeypatch, failures, name
):
    monkeypatch.setattr(streaming, "TRY_AGAIN_AFTER", 0.01)
    left = [OperationalError("away")] * failures

    def end(*arguments: Any) -> None:
        if left:
            raise left.pop()
        answer_end(*arguments)

    monkeypatch.setattr(streaming, "answer_end", end)
    said(READY, chunk("Open "))
    last, data = events(asked(answer))[-1]
    assert last == name
    assert name == "done" or data["message"] == streaming.NOT_STORED


def test_a_blind_stream_tells_the_words_alone(said, answer):
    said(LOADING, READY, chunk("Open "), USAGE, AnswerProblem("Base is gone", code="server_lost"))
    Answer.objects.filter(pk=answer.pk).update(title="Base")
    answer.turn.blind = True
    answer.turn.save()
    text = json.dumps(events(asked(answer, hidden=True)))
    assert "Open " in text
    secrets = ("model-1", "llama.cpp", "Base", "8192", '"completion_tokens"', '"tokens": 3', "4 s")
    for secret in (*secrets, "server_lost"):
        assert secret not in text

    stored = json.dumps(stored_answer_seen(answer.pk))
    assert streaming.HIDDEN_PROBLEM in stored
    assert "Base" not in stored


def test_characters_that_no_database_keeps_are_stored_as_others(said, answer):
    said(READY, chunk("a\x00b\ud800c"))
    events(asked(answer))
    answer.refresh_from_db()
    assert answer.text == "a\ufffdb\ufffdc"
