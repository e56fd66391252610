"""Asking models by the real client against a running platform: chat whole and streamed, tools,
forms of answers, responses, batches, limits, and who leaves in the middle."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from bs4 import BeautifulSoup
from openai import (
    APIStatusError,
    BadRequestError,
    NotFoundError,
    OpenAI,
    PermissionDeniedError,
    RateLimitError,
)
from openai.types import Batch, Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from tests.engine.gguf_files import sentencepiece_model
from tests.engine.test_tokenizer_formats import settings_write
from tests.live import ROOT, Platform
from tests.openai.conftest import lines

pytestmark = pytest.mark.long

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "light",
        "description": "Turn the light on or off.",
        "parameters": SCHEMA,
    },
}
# Tools as Qwen and Hermes have them; and a system message has a place.
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nYou may call functions:\n<tools>{% for tool in tools %}\n"
    "{{ tool | tojson }}{% endfor %}\n</tools>\nWrite calls as <tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def talker(platform: Platform) -> str:
    """The name of a model of Alice's: a tiny one whose tokenizer llama.cpp knows, of random
    weights."""
    folder = sentencepiece_model(
        platform.home / "models-inbox" / "talker",
        "gemma2",
        query_pre_attn_scalar=8,
        max_position_embeddings=2048,
    )
    settings_write(folder, chat_template=TOOL_TEMPLATE)
    body = {"source": "folder", "reference": str(folder), "name": "Talker"}
    answer = platform.api("POST", "models/", json=body)
    assert answer.status_code == 201, answer.text
    address = f"models/{answer.json()['id']}/"
    row = platform.poll(address, lambda now: now["status"] != "importing")
    assert row["status"] == "ready", row
    return str(row["slug"])


@pytest.fixture
def alice(remote) -> OpenAI:
    return remote("alice")


@pytest.fixture
def chat(alice: OpenAI, talker) -> Callable[..., Any]:
    def ask(**fields: Any) -> Any:
        given = {"model": talker, "messages": HELLO, "max_tokens": 8, "temperature": 0}
        return alice.chat.completions.create(**given | fields)

    return ask


def strict(kind: Any, value: Any) -> None:
    kind.model_validate(value.model_dump(exclude_none=True), strict=True)


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_chat_whole_and_streamed_are_the_same_answer(chat, talker):
    whole = chat()
    strict(ChatCompletion, whole)
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)

    assert text_of(chunks) == whole.choices[0].message.content
    assert {whole.model, *(chunk.model for chunk in chunks)} == {talker}
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 8
    assert [chunk.usage for chunk in chat(stream=True)] == [None] * (len(chunks) - 1)


def test_several_answers_count_all_their_tokens(chat):
    whole = chat(n=2, temperature=1, seed=1)
    chunks = list(chat(n=2, temperature=1, stream=True, stream_options={"include_usage": True}))
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    assert whole.usage.completion_tokens > 8
    assert chunks[-1].usage.total_tokens == (
        chunks[-1].usage.prompt_tokens + chunks[-1].usage.completion_tokens
    )


def test_a_seed_gives_the_same_answer_again(chat):
    answers = {chat(temperature=1, seed=5).choices[0].message.content for _ in range(3)}
    assert len(answers) == 1


def test_a_stop_text_ends_the_answer_and_is_not_in_it(chat):
    full = chat(max_tokens=16).choices[0].message.content
    stop = full[3:6]
    choice = chat(max_tokens=16, stop=stop).choices[0]
    assert (choice.message.content, choice.finish_reason) == (full[: full.index(stop)], "stop")


@pytest.mark.parametrize("tops", [0, 2])
def test_logprobs_are_those_of_the_tokens(chat, tops):
    whole = chat(logprobs=True, top_logprobs=tops)
    tokens = whole.choices[0].logprobs.content
    # Tokens that are parts of one character are one here.
    assert 1 <= len(tokens) <= whole.usage.completion_tokens
    assert {len(token.top_logprobs) for token in tokens} == {tops}
    streamed = [
        token.logprob
        for chunk in chat(logprobs=True, top_logprobs=tops, stream=True)
        for choice in chunk.choices
        for token in (choice.logprobs.content if choice.logprobs else [])
    ]
    assert streamed == pytest.approx([token.logprob for token in tokens], abs=1e-3)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_keeps_to_a_json_schema(chat, stream):
    answer = chat(response_format=FORM, max_tokens=64, stream=stream)
    text = text_of(answer) if stream else answer.choices[0].message.content
    assert set(json.loads(text)) == {"yes"}


def test_tools_and_what_they_said_are_read(chat):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "light", "arguments": '{"yes": true}'},
    }
    turns: Any = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    plain = chat().usage.prompt_tokens
    offered = chat(tools=[TOOL]).usage.prompt_tokens
    assert plain < offered < chat(tools=[TOOL], messages=turns).usage.prompt_tokens


def test_completions_go_on_from_a_text(alice, talker):
    given: Any = {"model": talker, "prompt": "The sky", "max_tokens": 6, "temperature": 0}
    whole = alice.completions.create(**given, logprobs=2)
    strict(Completion, whole)
    logprobs = whole.choices[0].logprobs
    assert 1 <= len(logprobs.tokens) == len(logprobs.token_logprobs) <= 6
    assert logprobs.text_offset[:2] == [0, len(logprobs.tokens[0])]
    streamed = alice.completions.create(**given, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text


def test_a_response_is_kept_and_gone_on_from(alice, talker):
    given: Any = {"model": talker, "max_output_tokens": 6, "temperature": 0}
    first = alice.responses.create(input="hello", **given)
    Response.model_validate_json(first.model_dump_json(), strict=True)
    assert alice.responses.retrieve(first.id).output_text == first.output_text

    events = list(
        alice.responses.create(input="more", previous_response_id=first.id, stream=True, **given)
    )
    second = events[-1].response
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == second.output_text
    assert second.usage.input_tokens > first.usage.input_tokens
    assert alice.responses.retrieve(second.id).previous_response_id == first.id

    alice.responses.delete(first.id)
    for call in (
        lambda: alice.responses.retrieve(first.id),
        lambda: alice.responses.create(input="x", previous_response_id=first.id, **given),
    ):
        with pytest.raises(NotFoundError):
            call()


def test_a_response_by_a_json_schema(alice, talker):
    answer = alice.responses.create(
        model=talker,
        input="hello",
        max_output_tokens=64,
        text={"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}},
    )
    assert set(json.loads(answer.output_text)) == {"yes"}


REFUSALS: dict[str, tuple[dict[str, Any], int, str | None, str | None]] = {
    "an unknown model": ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
    "a thousand answers": ({"n": 1000}, 400, "n", "integer_above_max_value"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages.[0].content.[0].type",
        "unsupported_content",
    ),
    "a long prompt": (
        {"messages": [{"role": "user", "content": "hello " * 20_000}]},
        400,
        "messages",
        "context_length_exceeded",
    ),
    "10 MB": (
        {"messages": [{"role": "user", "content": "hello " * 1_700_000}]},
        413,
        None,
        "too_large",
    ),
    "a schema that nobody can fulfil": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "schema": {"type": "string", "minLength": 5, "maxLength": 2},
                },
            }
        },
        400,
        None,
        None,
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_answered_is_refused_with_the_reason(chat, name, stream):
    fields, status, param, code = REFUSALS[name]
    with pytest.raises(APIStatusError) as refused:
        chat(**fields, stream=stream)
    error = refused.value
    assert (error.status_code, error.type) == (status, "invalid_request_error")
    assert error.message
    assert (param, code) in ((error.param, error.code), (None, None))


def test_embeddings_of_a_model_that_writes_are_refused(alice, talker):
    with pytest.raises(BadRequestError, match="no embeddings"):
        alice.embeddings.create(model=talker, input="hello")


def test_the_model_of_another_person_is_as_if_it_were_not_there(remote, talker):
    with pytest.raises(NotFoundError) as hidden:
        remote("bob").chat.completions.create(model=talker, messages=HELLO)
    with pytest.raises(NotFoundError) as unknown:
        remote("bob").chat.completions.create(model="talker-nobody", messages=HELLO)
    said = [str(error.value).replace("talker-nobody", talker) for error in (hidden, unknown)]
    assert said[0] == said[1]


def key(platform: Platform, **fields: Any) -> OpenAI:
    made = platform.api("POST", "account/tokens/", json={"name": "test"} | fields).json()
    return OpenAI(base_url=f"{platform.url}/v1", api_key=made["token"], max_retries=0)


def test_a_key_without_the_scope_asks_nothing_and_one_of_chat_no_more(platform, talker):
    with pytest.raises(PermissionDeniedError) as refused:
        key(platform, scope="read").chat.completions.create(model=talker, messages=HELLO)
    assert refused.value.code == "token_scope"

    asks = key(platform, scope="chat")
    assert talker in [model.id for model in asks.models.list()]
    asks.chat.completions.create(model=talker, messages=HELLO, max_tokens=2)
    with pytest.raises(PermissionDeniedError):
        asks.fine_tuning.jobs.list()


def test_a_key_with_a_limit_is_told_when_to_come_back(platform, talker):
    limited = key(platform, requests_per_minute=2)
    first = limited.models.with_raw_response.list()
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    limited.models.list()
    with pytest.raises(RateLimitError) as refused:
        limited.chat.completions.create(model=talker, messages=HELLO)
    assert refused.value.type == "rate_limit_error"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60


def test_calls_are_listed_with_their_tokens_and_refusals(platform, chat):
    usage = chat(max_tokens=3).usage
    with pytest.raises(NotFoundError):
        chat(model="nobody-at-all")

    deadline = time.monotonic() + 20
    counts = f"{usage.prompt_tokens}, {usage.completion_tokens}"
    while not (counts in (text := page_text("programs/", platform)) and "nobody-at-all" in text):
        assert time.monotonic() < deadline, text
        time.sleep(0.2)
    assert "404 model_not_found" in text


def page_text(page: str, platform: Platform) -> str:
    """What a reader sees, with single blanks."""
    return " ".join(BeautifulSoup(platform.page(page), "html.parser").get_text(" ").split())


def test_when_the_client_leaves_the_model_stops_writing(platform, chat, talker, alice):
    stream = chat(max_tokens=100_000, stream=True, temperature=1, extra_body={"min_p": 0})
    for _ in range(3):
        next(iter(stream))
    stream.close()

    # Its row is written at its end.
    deadline = time.monotonic() + 20
    while "client left" not in platform.page("programs/"):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_web_process_that_asked_models_ends_without_a_complaint(platform, chat):
    """Its connections to the gateway and to model servers are closed before."""
    for _ in range(4):
        chat()

    family = {process.pid: process for process in platform.processes("manage.py", "web")}
    workers = [process for process in family.values() if process.ppid() in family]
    assert workers
    for worker in workers:
        worker.terminate()

    assert psutil.wait_procs(workers, timeout=60)[1] == []
    log = (platform.home / "logs" / "web.log").read_text()
    assert all(f"Worker exiting (pid: {worker.pid})" in log for worker in workers)
    assert "Unclosed" not in log
    assert chat().choices


def requests_of(model: str, count: int, **fields: Any) -> bytes:
    return lines(
        [
            {
                "custom_id": f"question-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": model, "messages": HELLO, "max_tokens": 8} | fields,
            }
            for number in range(count)
        ]
    )


def batch_of(client: OpenAI, content: bytes) -> Batch:
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def ended(client: OpenAI, batch: Batch, until: Callable[[Batch], bool] | None = None) -> Batch:
    deadline = time.monotonic() + 120
    over = ("completed", "failed", "cancelled", "expired")
    while not (until(batch) if until else batch.status in over):
        assert time.monotonic() < deadline, batch
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    return batch


def answers(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    rows = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    found = {row["custom_id"]: row["response"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_batch_answers_all_and_tells_what_failed(alice, talker):
    bad = json.dumps(
        {
            "custom_id": "bad",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": talker, "messages": HELLO, "n": 1000},
        }
    )
    batch = batch_of(alice, requests_of(talker, 5) + bad.encode() + b"\n")
    strict(Batch, batch)
    batch = ended(alice, batch)
    assert (batch.status, batch.model) == ("completed", talker)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (6, 5, 1)

    good = answers(alice, batch.output_file_id)
    assert set(good) == {f"question-{number}" for number in range(5)}
    for answer in good.values():
        ChatCompletion.model_validate(answer["body"])
    used = sum(answer["body"]["usage"]["total_tokens"] for answer in good.values())
    assert batch.usage.total_tokens == used
    refused = answers(alice, batch.error_file_id)["bad"]
    assert (refused["status_code"], refused["body"]["error"]["param"]) == (400, "n")
    assert batch.id in [row.id for row in alice.batches.list()]


def test_a_batch_whose_worker_is_killed_asks_nothing_twice(platform, alice, talker):
    batch = batch_of(alice, requests_of(talker, 300, max_tokens=60, temperature=1))
    batch = ended(alice, batch, lambda now: now.request_counts.completed >= 4)
    work = platform.home / "openai" / "batches" / batch.id / "answers.jsonl"
    before = [json.loads(line)["id"] for line in work.read_text().splitlines(keepends=True)[:4]]

    for process in platform.processes("manage.py", "jobs_worker", "--lane", "2"):
        process.kill()

    batch = ended(alice, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 300)
    text = alice.files.content(batch.output_file_id).text
    assert set(before) <= {json.loads(line)["id"] for line in text.splitlines()}
    assert len(answers(alice, batch.output_file_id)) == 300


def test_a_batch_that_is_cancelled_keeps_what_is_answered(alice, talker):
    batch = batch_of(alice, requests_of(talker, 200, max_tokens=100, temperature=1))
    ended(alice, batch, lambda now: now.request_counts.completed >= 1)
    assert alice.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(alice, batch)
    assert batch.status == "cancelled"
    assert 1 <= len(answers(alice, batch.output_file_id)) < 200
    with pytest.raises(BadRequestError):
        alice.batches.cancel(batch.id)


FAULTS = {
    "nothing": (b"\n", "empty_file"),
    "no JSON": (b"{broken\n", "invalid_json_line"),
    "another address": (
        lines([{"custom_id": "a", "method": "POST", "url": "/v1/models", "body": {}}]),
        "invalid_url",
    ),
    "the same id twice": (requests_of("x", 1) * 2, "duplicate_custom_id"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_batch_of_a_bad_file_fails_by_line(alice, name):
    content, code = FAULTS[name]
    batch = ended(alice, batch_of(alice, content))
    assert (batch.status, batch.errors.data[0].code) == ("failed", code)


def test_the_batch_and_response_of_another_person_are_not_there(remote, alice, talker):
    batch = batch_of(alice, requests_of(talker, 1))
    response = alice.responses.create(model=talker, input="x", max_output_tokens=2)
    bob = remote("bob")
    for call in (
        lambda: bob.batches.retrieve(batch.id),
        lambda: bob.batches.cancel(batch.id),
        lambda: bob.responses.retrieve(response.id),
        lambda: bob.responses.delete(response.id),
    ):
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(BadRequestError):
        bob.batches.create(
            input_file_id=batch.input_file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
    ended(alice, batch)


def node_client() -> bool:
    return shutil.which("node") is not None and (ROOT / "node_modules" / "openai").is_dir()


@pytest.mark.skipif(not node_client(), reason="node and the TypeScript client are not installed")
def test_the_typescript_client_does_the_basic_path(platform, talker):
    script = Path(__file__).with_name("basic.mjs")
    done = subprocess.run(
        ["node", script, f"{platform.url}/v1", platform.token("alice"), talker],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert talker in said["names"]
    assert (said["purpose"], said["same"]) == ("batch", True)
    assert said["streamed"] == said["whole"]
    assert said["usage"] == [5, 5]
    assert said["refused"] == {"status": 404, "code": "model_not_found", "param": "model"}
