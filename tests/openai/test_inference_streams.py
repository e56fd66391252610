"""What a stream says while nothing is written yet, and how it ends when its model server does or its
reader leaves."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from openai_api.inference import answers
from openai_api.inference.answers import Asked, chat_events, streamed, whole
from openai_api.inference.bodies import Question
from openai_api.inference.models import Call
from serving.answering import AnswerProblem, Data, State

LOADING = State("loading", "Loading the model (about 4 s)")
READY = State("ready", "Answering", backend="llama.cpp")
LOST = AnswerProblem("The model server ended.", code="server_lost")


def word(text: str) -> Data:
    chunk = {"model": "model", "choices": [{"index": 0, "delta": {"content": text}}]}
    return Data(json.dumps(chunk, separators=(",", ":")).encode())


USED = Data(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}')


class Server:
    """Parts of an answer: what is sent, seconds to wait, an error."""

    def __init__(self, *parts):
        self.parts = parts
        self.is_closed = False

    async def answer_stream(self, placement, path, body, *, background=False):
        assert body["stream_options"] == {"include_usage": True}
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, float):
                    await asyncio.sleep(part)
                else:
                    yield part
        finally:
            self.is_closed = True


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(answers, "HOLD_BACK_SECONDS", 0.05)
    monkeypatch.setattr(answers, "ALIVE_SECONDS", 0.05)
    recorded = []

    async def record(call, request):
        recorded.append(call)

    monkeypatch.setattr(answers, "call_record_later", record)

    def start(*parts, **question):
        server = Server(*parts)
        monkeypatch.setattr(answers, "answer_stream", server.answer_stream)
        asked = Asked(None, "/", Question("ours", {"n": 2}, **question), SimpleNamespace(), Call())
        return SimpleNamespace(server=server, asked=asked, recorded=recorded)

    return start


def sent(serving) -> tuple[int, str]:
    async def read():
        response = await streamed(serving.asked, chat_events(serving.asked)).decided()
        if not response.streaming:
            return response.status_code, response.content.decode()
        return response.status_code, b"".join([part async for part in response]).decode()

    return asyncio.run(read())


def test_a_stream_tells_what_it_waits_for_and_then_the_answer(serve):
    serving = serve(LOADING, 0.3, READY, word("a"), word("b"), USED)
    status, text = sent(serving)
    comments, _, rest = text.partition("data: ")
    assert status == 200
    assert comments.startswith(": Loading the model (about 4 s)\n\n")
    assert all(line.startswith(": ") for line in comments.split("\n\n") if line)
    assert rest.count('"model":"ours"') == 2
    assert rest.endswith("data: [DONE]\n\n")
    assert '"usage"' not in rest
    (call,) = serving.recorded
    assert (call.status, call.tokens_in, call.tokens_out) == (200, 5, 2)


def test_the_count_of_tokens_is_sent_where_it_was_asked_for(serve):
    _, text = sent(serve(READY, word("a"), USED, USED, include_usage=True))
    last = json.loads(text.split("data: ")[-2])
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)


def test_a_server_that_ends_in_the_middle_ends_the_stream_with_an_error(serve):
    serving = serve(READY, word("a"), LOST)
    status, text = sent(serving)
    last = json.loads(text.split("data: ")[-1])
    assert (status, last["error"]["code"]) == (200, "server_lost")
    assert "[DONE]" not in text
    assert [(call.status, call.code) for call in serving.recorded] == [(503, "server_lost")]


def test_a_fault_of_ours_ends_the_stream_with_an_error_and_is_recorded_as_one(serve):
    # No model server counts like this: chunks cannot add it up.
    odd = Data(b'{"choices":[],"usage":{"prompt_tokens":5}}')
    serving = serve(READY, word("a"), odd, odd)
    status, text = sent(serving)
    last = json.loads(text.split("data: ")[-1])
    assert (status, last["error"]["type"]) == (200, "server_error")
    assert [call.status for call in serving.recorded] == [500]
    assert serving.server.is_closed


@pytest.mark.parametrize("parts", [(LOST,), (READY, LOST)])
def test_what_fails_before_the_first_word_has_a_status(serve, parts):
    status, text = sent(serve(*parts))
    assert (status, json.loads(text)["error"]["code"]) == (503, "server_lost")


def test_what_the_server_cannot_do_is_refused_before_it_writes(serve):
    serving = serve(READY, word("a"), needs={"json_schema": "response_format"})
    status, text = sent(serving)
    assert (status, json.loads(text)["error"]["param"]) == (400, "response_format")
    assert serving.server.is_closed


@pytest.mark.parametrize("read", [0, 1])
def test_who_leaves_ends_the_answer_also_before_its_first_word(serve, read):
    serving = serve(READY, word("a"), 60.0)

    async def leave():
        response = await streamed(serving.asked, chat_events(serving.asked)).decided()
        parts = aiter(response)
        for _ in range(read):
            await anext(parts)
        response.close()
        await asyncio.sleep(0.05)
        if read:
            await parts.aclose()
        assert serving.server.is_closed

    asyncio.run(leave())
    assert [call.status for call in serving.recorded] == [499] * read


def test_several_whole_answers_are_put_together_with_all_their_tokens(serve):
    other = Data(
        b'{"id":"x","choices":[{"index":1,"delta":{"content":"c"},"finish_reason":"stop"}]}'
    )
    serving = serve(READY, word("a"), other, word("b"), USED, USED)
    answer = asyncio.run(whole(serving.asked).decided())
    body = json.loads(answer.content)
    assert [choice["message"]["content"] for choice in body["choices"]] == ["ab", "c"]
    assert body["choices"][1]["finish_reason"] == "stop"
    assert (body["usage"]["completion_tokens"], body["model"]) == (4, "ours")
