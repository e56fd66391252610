"""What programs ask a model server, the same of every backend."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine.serving.servers import CHAT, QUESTION, TEXT, TUNED, Server

# One process makes the models.
pytestmark = [pytest.mark.long, pytest.mark.long, pytest.mark.xdist_group("serving")]


def test_an_answer_says_who_why_and_how_long(server: Server):
    answer = server.chat()
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert 0 < usage["completion_tokens"] <= 24
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert str(server.ready.url) not in json.dumps(answer)
    assert "/" not in answer["model"]


def test_a_stream_is_the_same_answer_in_parts(server: Server):
    options = {"include_usage": True}
    body = {"messages": QUESTION, "temperature": 0, "max_tokens": 24, "stream_options": options}
    events = server.events(body)
    choices = [choice for event in events for choice in event["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == server.text()
    assert choices[0]["delta"]["role"] == "assistant"
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == server.chat()["choices"][0]["finish_reason"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == server.chat()["usage"]["completion_tokens"]
    # How long it wrote, without its reading of the prompt and without waiting.
    timings = events[-1]["timings"]
    assert timings["predicted_n"] == events[-1]["usage"]["completion_tokens"]
    assert 0 < timings["predicted_ms"] < 60_000


def test_a_base_answers_as_itself_whatever_an_adapter_answered_before(server: Server):
    """Of the same prompt, which is in the cache; and the other way round; and both at once."""
    base = server.text()
    tuned = server.text(key=TUNED)
    assert base != tuned
    assert [server.text(), server.text()] == [base, base]
    assert [server.text(key=TUNED), server.text(key=TUNED)] == [tuned, tuned]

    keys = ["", TUNED] * 4
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda key: server.text(key=key), keys))
    assert answers == [base, tuned] * 4

    longer = [*QUESTION, {"role": "assistant", "content": base}, *QUESTION]
    first = server.text(messages=longer)
    assert server.text(messages=longer, key=TUNED) != first
    assert server.text() == base
    assert server.text(messages=longer) == first


def test_both_backends_answer_alike(llama_cpp: Server, by_transformers: Server):
    for key in ("", TUNED):
        assert llama_cpp.text(key=key) == by_transformers.text(key=key)


def test_what_a_text_goes_on_with(server: Server):
    answer = server.post(TEXT, {"prompt": ["The sky", "Blue is"], "max_tokens": 6})
    assert answer["object"] == "text_completion"
    assert sorted(choice["index"] for choice in answer["choices"]) == [0, 1]
    assert all(isinstance(choice["text"], str) for choice in answer["choices"])

    tokens = server.post("/tokenize", {"content": "The sky", "add_special": True})["tokens"]
    body = {"temperature": 0, "max_tokens": 6}
    texts = [
        server.post(TEXT, body | {"prompt": prompt})["choices"][0]["text"]
        for prompt in ("The sky", tokens)
    ]
    assert texts[0] == texts[1]
    events = server.events(body | {"prompt": "The sky"}, TEXT)
    parts = [choice["text"] for event in events for choice in event["choices"]]
    assert "".join(parts) == texts[0]


@pytest.mark.parametrize("place", [1, 3, 5])
def test_an_answer_ends_in_front_of_a_stop_text(server: Server, place):
    whole = server.text()
    stop = whole[place : place + 2]
    assert server.text(stop=[stop, "never Zqx"]) == whole[: whole.find(stop)]
    assert server.text(stop=stop) == whole[: whole.find(stop)]
    events = server.events({"messages": QUESTION, "temperature": 0, "max_tokens": 24, "stop": stop})
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole[: whole.find(stop)]


def test_a_seed_gives_the_same_answer_again(server: Server):
    drawn = [server.text(temperature=1.5, seed=seed) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
def test_what_leaves_one_token_is_greedy(server: Server, narrow):
    assert server.text(temperature=2, seed=5, **narrow) == server.text()


@pytest.mark.parametrize(
    "penalty", ["repeat_penalty", "presence_penalty", "frequency_penalty"], ids=str
)
def test_penalties_change_what_repeats(server: Server, penalty):
    repeats = {"messages": [{"role": "user", "content": "sky sky sky"}], "max_tokens": 60}
    plain = server.text(**repeats)
    assert server.text(**repeats, **{penalty: 2.0}) != plain


def test_several_answers_to_one_question(server: Server):
    answer = server.chat(n=2, temperature=1.5, seed=3)
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    assert [choice["index"] for choice in choices] == [0, 1]
    first, second = (choice["message"]["content"] for choice in choices)
    assert first != second
    assert server.ready.most_choices == 2


def test_log_probabilities_of_every_token(server: Server):
    answer = server.chat(logprobs=True, top_logprobs=3, max_tokens=4)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) in (3, 4)
    for entry in entries:
        best = entry["top_logprobs"]
        assert len(best) == 3
        assert (entry["token"], entry["logprob"]) == (best[0]["token"], best[0]["logprob"])
        assert 0 < math.exp(entry["logprob"]) <= 1
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]

    streamed = server.events(
        {
            "messages": QUESTION,
            "temperature": 0,
            "max_tokens": 4,
            "logprobs": True,
            "top_logprobs": 3,
        }
    )
    tokens = [
        entry["token"]
        for event in streamed
        for choice in event["choices"]
        for entry in (choice.get("logprobs") or {}).get("content", [])
    ]
    assert tokens == [entry["token"] for entry in entries]


def test_tokens_of_a_text_with_their_pieces(server: Server):
    text = "<bos>Hello é🙂\n sky"
    tokens = server.post("/tokenize", {"content": text, "with_pieces": True})["tokens"]
    pieces = b"".join(
        bytes(token["piece"]) if isinstance(token["piece"], list) else token["piece"].encode()
        for token in tokens
    )
    assert pieces.decode() == text
    assert tokens[0]["id"] in server.ready.marks
    assert tokens[1]["id"] not in server.ready.marks


def test_both_backends_read_alike(llama_cpp: Server, by_transformers: Server):
    servers = (llama_cpp, by_transformers)
    assert set(llama_cpp.ready.marks) <= set(by_transformers.ready.marks)
    for body in (
        {"content": "Hello é🙂 <bos> sky", "with_pieces": True},
        {"content": "The sky", "add_special": True},
    ):
        first, second = (server.post("/tokenize", body)["tokens"] for server in servers)
        assert first == second

    body = {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION]}
    first, second = (server.post("/apply-template", body)["prompt"] for server in servers)
    assert first == second


def test_a_prompt_over_the_context_is_refused_with_its_length(server: Server):
    body = {"messages": [{"role": "user", "content": "sky " * 4000}]}
    status, error = server.refused(CHAT, body)
    assert (status, error["type"]) == (400, "exceed_context_size_error")
    assert error["n_prompt_tokens"] > error["n_ctx"] == server.ready.context == 512


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        {},
        {"messages": "Hi"},
        {"messages": QUESTION, "n": 1000},
        {"messages": QUESTION, "max_tokens": -7},
    ],
    ids=str,
)
def test_what_is_no_request_is_refused_and_the_next_one_answered(server: Server, body):
    status, error = server.refused(CHAT, body)
    assert status in (400, 500)
    assert error["message"]
    assert server.text()


def test_nobody_without_the_key_gets_an_answer(server: Server):
    for bearer in ("", "wrong", "é"):
        status, _ = server.refused(CHAT, {"messages": QUESTION}, bearer=bearer)
        assert status == 401
