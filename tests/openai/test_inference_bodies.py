"""Requests that ask a model: what is refused by which name, and what the model server gets."""

import asyncio
import json

import pytest
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from core.errors import UserError
from openai_api.errors import ApiProblem
from openai_api.inference import responses
from openai_api.inference.abilities import abilities_check
from openai_api.inference.bodies import (
    MOST_CHARACTERS,
    Question,
    chat_question,
    completion_question,
)
from openai_api.inference.endpoints import ENDPOINTS, ask_of
from openai_api.inference.models import StoredResponse
from openai_api.inference.responses import Events, Response
from openai_api.inference.responses_body import messages_of_input
from serving.answering import Data

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "divide"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def chat(**fields):
    return chat_question({"model": "tiny", "messages": HELLO} | fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages.[0]"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.[0].role"),
        ({"messages": [{"role": "user"}]}, "messages.[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.[0].content.[0].type",
        ),
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages.[0].tool_call_id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages.[0].tool_calls.[0].id",
        ),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"n": 10**400}, "n"),
        ({"n": 1000}, "n"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"seed": "one"}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": "yes"}, "stream"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tools": [{"type": "web_search"}]}, "tools.[0].type"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "no"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"functions": [{}]}, "functions"),
        ({"messages": [{"role": "user", "content": "x" * (MOST_CHARACTERS + 1)}]}, "messages"),
    ],
)
def test_a_chat_that_cannot_be_is_refused_by_the_name_of_the_field(fields, param):
    with pytest.raises(ApiProblem) as refused:
        chat(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param.split(".")[0] in refused.value.message or refused.value.code


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 9}, "logprobs"),
    ],
)
def test_a_completion_that_cannot_be_is_refused_by_the_name_of_the_field(fields, param):
    with pytest.raises(ApiProblem) as refused:
        completion_question({"model": "tiny", "prompt": "x"} | fields)
    assert refused.value.param == param


def test_the_model_server_gets_what_we_know_and_nothing_else():
    sent = {
        "lora": [{"id": 0, "scale": 1}],
        "cache_prompt": False,
        "metadata": {"a": "b"},
        "user": "me",
        "store": True,
        "max_completion_tokens": 5,
        "min_p": 0.1,
        "temperature": None,
    }
    assert chat(**sent).body == {
        "model": "tiny",
        "messages": HELLO,
        "max_tokens": 5,
        "min_p": 0.1,
    }


def test_parts_of_text_and_a_developer_are_what_templates_know():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = chat(messages=[{"role": "developer", "content": parts}]).body
    assert body["messages"] == [{"role": "system", "content": "ab"}]


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, {}),
        ({"n": 1, "presence_penalty": 0, "logprobs": False}, {}),
        ({"n": 2}, {"n": "n"}),
        ({"presence_penalty": 0.5}, {"penalties": "presence_penalty"}),
        ({"logprobs": True, "top_logprobs": 0}, {"logprobs": "logprobs"}),
        ({"seed": 0}, {"seed": "seed"}),
        ({"min_p": 0.1}, {"min_p": "min_p"}),
        ({"tools": [TOOL]}, {"tools": "tools"}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_object": "response_format"}),
        ({"response_format": SCHEMA}, {"json_schema": "response_format"}),
    ],
)
def test_what_a_server_must_be_able_to_do_is_asked_by_the_field_that_needs_it(fields, needs):
    assert chat(**fields).needs == needs
    abilities_check(needs, needs, "llama.cpp")
    if needs:
        with pytest.raises(ApiProblem) as refused:
            abilities_check(needs, (), "llama.cpp")
        assert refused.value.param in needs.values()
        assert "tools" in needs or "llama.cpp" in refused.value.message


def test_a_function_that_must_be_called_is_the_only_one_that_the_server_gets():
    choice = {"type": "function", "function": {"name": "divide"}}
    body = chat(tools=[TOOL, OTHER], tool_choice=choice).body
    assert (body["tools"], body["tool_choice"]) == ([OTHER], "required")


# Responses


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": [{"role": "king", "content": "x"}]}, "input.[0].role"),
        ({"input": [{"type": "image_generation_call"}]}, "input.[0].type"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools.[0].type"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"previous_response_id": "resp_nobody"}, "previous_response_id"),
        ({"input": [{"role": "user", "content": 5}]}, "input.[0].content"),
        ({"text": {"format": 5}}, "text.format"),
        ({"metadata": {"a": float("inf")}}, "metadata.a"),
    ],
)
def test_a_response_that_cannot_be_is_refused_by_the_name_of_the_field(fields, param, alice):
    with pytest.raises(ApiProblem) as refused:
        ask_of("/v1/responses", {"model": "tiny", "input": "x"} | fields, alice)
    assert refused.value.param == param
    assert "messages" not in refused.value.message
    assert "response_format" not in refused.value.message


@pytest.mark.parametrize(("rows", "size"), [(3, 10**9), (10**6, 3000)])
def test_a_person_keeps_so_many_responses_and_the_newest_stay(rows, size, alice, bob, monkeypatch):
    monkeypatch.setattr(responses, "MOST_STORED", rows)
    monkeypatch.setattr(responses, "MOST_STORED_BYTES", size)
    made = []
    for owner in (bob, *[alice] * 6):
        response = Response(owner, {"model": "tiny"}, {}, [{"role": "user", "content": "x" * 200}])
        response._write(response.body("completed", []), response.messages)
        made.append(response.identity)
    kept = list(StoredResponse.objects.order_by("pk").values_list("public_id", flat=True))
    assert kept[0] == made[0]
    assert 1 < len(kept) < len(made)
    assert kept[1:] == made[-len(kept[1:]) :]


def test_a_full_disk_refuses_what_is_to_be_stored_before_it_is_asked(alice, settings):
    settings.DISK_RESERVE_BYTES = 1 << 60
    with pytest.raises(UserError) as refused:
        ask_of("/v1/responses", {"model": "tiny", "input": "x"}, alice)
    assert refused.value.status == 507
    ask_of("/v1/responses", {"model": "tiny", "input": "x", "store": False}, alice)


def test_items_are_the_messages_that_chat_knows():
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "2 + 2?"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "4"},
    ]
    messages = messages_of_input(items)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["c1", "c2"]


class Known:
    """Who only wants to know what an answer used."""

    question = Question("tiny", {})

    def usage(self, usage):
        self.used = usage


def chunks(*deltas, finish="stop"):
    for delta in deltas:
        yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    yield {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


async def events_of(parts, owner):
    sent = {"model": "tiny", "input": "x"}
    made = Events(Known(), Response(owner, sent, {"store": False}, []))

    async def data():
        for part in parts:
            yield Data(json.dumps(part).encode())

    return [event async for event in made.shape(data())]


CALL = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": ""}}
MORE = {"index": 0, "function": {"arguments": '{"a": 1}'}}
STREAMS = {
    "text": (list(chunks({"content": "4"}, {"content": "2"})), "response.completed"),
    "cut": (list(chunks({"content": "4"}, finish="length")), "response.incomplete"),
    "nothing": (list(chunks()), "response.completed"),
    "call": (
        list(chunks({"tool_calls": [CALL]}, {"tool_calls": [MORE]}, finish="tool_calls")),
        "response.completed",
    ),
    "both": (
        list(chunks({"content": "I add"}, {"tool_calls": [CALL]}, {"tool_calls": [MORE]})),
        "response.completed",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_events_of_a_response_are_those_that_the_client_knows(name, alice):
    parts, last = STREAMS[name]
    known = TypeAdapter(ResponseStreamEvent)
    sent = [event.decode().split("\ndata: ") for event in asyncio.run(events_of(parts, alice))]
    events = [known.validate_json(data, strict=True) for _, data in sent]

    assert [head for head, _ in sent] == [f"event: {event.type}" for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == last
    response = events[-1].response
    OpenAIResponse.model_validate_json(response.model_dump_json(), strict=True)
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 2)

    added = [event.item.type for event in events if event.type == "response.output_item.added"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.type for item in done] == added
    assert name == "nothing" or response.output == done
    calls = [item.arguments for item in response.output if item.type == "function_call"]
    assert calls == (['{"a": 1}'] if name in ("call", "both") else [])


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_refuses_a_request_without_a_model(endpoint, alice):
    names = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
    with pytest.raises(ApiProblem) as refused:
        ask_of(endpoint, {names.get(endpoint, "input"): "x"}, alice)
    assert refused.value.param == "model"
