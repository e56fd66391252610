"""Leases of real model servers, and what happens to those who have one."""

import asyncio
import json
import os
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.devices.sharing import Rule
from serving.answering import (
    CHAT,
    AnswerProblem,
    Data,
    State,
    answer,
    answer_stream,
    loaded_context,
    prompt_read,
    warm,
)
from serving.gateway import child, gateway, model_server
from serving.gateway.child import Child
from serving.gateway.prepared import NOT_COMPARED
from serving.leases import lease
from tests.serving.conftest import closing

pytestmark = pytest.mark.long

QUESTION = {
    "model": 'who"ever/1',
    "messages": [{"role": "user", "content": "What colour is the sky?"}],
    "max_tokens": 12,
    "temperature": 0,
}
LONG = {"max_tokens": 400}


async def asked(placement, **more):
    """(states, words) of an answer."""
    states, words = [], ""
    async for part in answer_stream(placement, CHAT, QUESTION | more):
        if isinstance(part, State):
            states.append(part)
            continue

        assert isinstance(part, Data)
        chunk = json.loads(part.payload)
        assert chunk["model"] == QUESTION["model"]
        for choice in chunk["choices"]:
            words += choice["delta"].get("content") or ""

    return states, words


async def until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def child_of(house) -> Child:
    (server,) = house.gateway.servers.values()
    assert server.child is not None
    return server.child


async def lost_after(placement, do):
    """What whoever has a lease hears when `do` happens."""
    async with lease(placement) as held:
        async for event in held.events():
            if event["phase"] == "ready":
                do()
            if event["phase"] in ("lost", "refused"):
                return event

    return {}


def phases(states):
    return [state.phase for state in states]


def test_a_model_is_prepared_loaded_and_answers(house, base):
    states, words = house.run(asked(base))
    assert phases(states)[-1] == "ready"
    assert "loading" in phases(states)
    assert states[-1].backend == "llama.cpp"
    assert states[-1].context > 0
    assert words

    again, same = house.run(asked(base))
    assert phases(again) == ["ready"]
    assert same == words


async def measured(placement):
    """How sure it was of each token of its answer."""
    reply = await answer(placement, CHAT, QUESTION | {"logprobs": True})
    assert reply["model"] == QUESTION["model"]
    return [token["logprob"] for token in reply["choices"][0]["logprobs"]["content"]]


def test_base_and_adapter_share_a_server(house, base, tuned):
    async def both():
        return await asyncio.gather(measured(base), measured(tuned), measured(base))

    first, second, third = house.run(both())
    assert first == pytest.approx(third, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-3)
    assert house.run(measured(base)) == pytest.approx(first, abs=1e-3)
    assert len(house.state()["models"]) == 1


def test_another_adapter_waits_for_nobody_and_cuts_nobody_off(house, base, tuned, monkeypatch):
    """An answer that is being written when another adapter is wanted goes on beside it."""
    monkeypatch.setattr(model_server, "SPARE_SECONDS", 0.5)

    async def meanwhile():
        await asked(base)
        async with lease(base) as held:
            events = held.events()
            assert (await anext(events))["phase"] == "ready"
            first = child_of(house)
            assert phases((await asked(tuned))[0])[-1] == "ready"
            assert child_of(house) is not first
            assert first.process.returncode is None
            await asyncio.sleep(1)
            assert first.process.returncode is None
        await until(lambda: first.process.returncode is not None)

    house.run(meanwhile())


def test_where_no_memory_is_left_adapters_take_turns(house, base, tuned, monkeypatch):
    house.run(asked(tuned))
    house.run(asked(base))
    monkeypatch.setattr(model_server, "SPARE_BYTES", 1 << 60)

    async def in_turn():
        async with lease(base) as held:
            assert (await anext(held.events()))["phase"] == "ready"
            waiting = asyncio.create_task(asked(tuned))
            await until(lambda: house.state()["models"][0]["waiting"])
            # Another one of the base does not pass it for ever.
            behind = asyncio.create_task(asked(base))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            assert not behind.done()
        return await asyncio.gather(waiting, behind)

    (states, words), (_, others) = house.run(in_turn())
    assert any("memory" in state.words for state in states)
    assert words
    assert others
    assert len(house.state()["models"][0]["pids"]) == 1


def test_where_no_memory_is_left_a_new_adapter_waits_its_turn(house, base, tuned, monkeypatch):
    house.run(asked(base))
    monkeypatch.setattr(model_server, "SPARE_BYTES", 1 << 60)

    async def in_turn():
        async with lease(base) as held:
            assert (await anext(held.events()))["phase"] == "ready"
            waiting = asyncio.create_task(asked(tuned))
            await asyncio.sleep(1)
            assert not waiting.done()
        return await waiting

    states, words = house.run(in_turn())
    assert any("memory" in state.words for state in states)
    assert words


def test_whose_answers_differ_answers_by_transformers_from_then_on(house, different):
    states, words = house.run(asked(different))
    assert (states[-1].backend, states[-1].note) == ("llama.cpp", NOT_COMPARED)
    assert words

    asyncio.run(until(lambda: not house.state()["models"], 60))
    states, words = house.run(asked(different))
    assert states[-1].backend == "transformers"
    assert "Same tokens" in states[-1].note
    assert words


def test_whose_answers_are_the_same_has_no_note_any_more(house, base):
    house.run(asked(base))
    asyncio.run(until(lambda: not house.gateway.preparations.comparing, 60))
    (state,) = house.run(asked(base))[0]
    assert (state.backend, state.note) == ("llama.cpp", "")


def test_what_llama_cpp_does_not_know_is_answered_all_the_same(house, unknown):
    states, words = house.run(asked(unknown))
    assert states[-1].backend == "transformers"
    assert "llama.cpp does not know" in states[-1].note
    assert words
    # It is not tried again each time.
    assert phases(house.run(asked(unknown))[0]) == ["ready"]


def test_the_tokens_of_a_conversation(house, base):
    house.run(asked(base))
    prompt = house.run(prompt_read(base, QUESTION["messages"]))
    assert [piece.text for piece in prompt.pieces if piece.special] == ["<bos>"]
    assert "What" in "".join(piece.text for piece in prompt.pieces)
    assert prompt.count == len(prompt.pieces)

    counted = house.run(prompt_read(base, QUESTION["messages"], with_pieces=False))
    assert counted == replace(prompt, pieces=[])
    assert prompt.context == house.run(loaded_context(base))


def test_what_is_not_loaded_is_loaded_on_demand_alone(house, base):
    assert house.run(loaded_context(base)) == 0
    with pytest.raises(AnswerProblem) as caught:
        house.run(prompt_read(base, QUESTION["messages"]))
    assert caught.value.code == "not_loaded"

    async def warmed():
        await warm(base)
        await until(lambda: house.state()["models"] and house.state()["models"][0]["context"])
        return await loaded_context(base)

    assert house.run(warmed()) > 0


def test_a_prompt_over_the_context_is_refused_with_both_counts(house, base):
    messages = [{"role": "user", "content": "sky " * 3000}]
    with pytest.raises(AnswerProblem) as caught:
        house.run(asked(base, messages=messages))
    assert (caught.value.code, caught.value.status) == ("context_length_exceeded", 400)
    assert "512" in caught.value.message


def test_fields_that_choose_another_adapter_are_left_out(house, base, tuned):
    _, plain = house.run(asked(base))
    house.run(asked(tuned))
    _, words = house.run(asked(base, lora=[{"id": 0, "scale": 1.0}]))
    assert words == plain


def test_more_leases_than_places_are_served_in_order(house, base):
    events_of_each = [[] for _ in range(10)]
    most = 0

    async def one(events):
        nonlocal most
        async with lease(base) as held:
            async for event in held.events():
                events.append((event["phase"], event.get("position")))
                if event["phase"] == "ready":
                    break
            most = max(most, len(child_of(house).leases))
            # Nobody leaves before the last has come.
            await until(lambda: all(events_of_each))

    async def ten():
        await asked(base)
        await asyncio.gather(*map(one, events_of_each))

    house.run(ten())
    assert most == 4
    assert [events[0][0] for events in events_of_each].count("ready") == 4
    assert sorted(events[0][1] for events in events_of_each if events[0][0] == "waiting") == [
        *range(1, 7)
    ]
    assert all(events[-1][0] == "ready" for events in events_of_each)
    asyncio.run(until(lambda: not child_of(house).leases))


def test_tokens_are_counted_while_all_places_are_taken(house, base, tuned):
    """With that adapter and with another."""

    async def ready(held):
        async for event in held.events():
            if event["phase"] == "ready":
                return

    async def count():
        # So that one child has both.
        await asked(tuned)
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await ready(await stack.enter_async_context(lease(base)))

            async with asyncio.timeout(30):
                return [
                    (await prompt_read(model, QUESTION["messages"])).count
                    for model in (base, tuned)
                ]

    assert all(house.run(count()))


def test_whoever_leaves_gives_the_place_up(house, base):
    async def leave():
        stream = answer_stream(base, CHAT, QUESTION | LONG)
        async for part in stream:
            if isinstance(part, Data):
                break
        assert len(child_of(house).leases) == 1
        await stream.aclose()
        await until(lambda: not child_of(house).leases)

    house.run(leave())


def test_a_server_that_is_killed_in_an_answer_is_started_anew(house, base):
    # More than the sockets between hold, so that it is still being written.
    much = LONG | {"n": 4, "logprobs": True, "top_logprobs": 20}

    async def cut():
        is_killed = False
        async for part in answer_stream(base, CHAT, QUESTION | much):
            if isinstance(part, Data) and not is_killed:
                is_killed = True
                os.kill(child_of(house).pid, signal.SIGKILL)

    with pytest.raises(AnswerProblem) as caught:
        house.run(cut())
    assert caught.value.code == "server_lost"

    states, words = house.run(asked(base))
    assert "loading" in phases(states)
    assert words


def test_a_server_that_dies_again_and_again_is_left_alone(house, base):
    async def die():
        for _ in range(3):
            await lost_after(base, lambda: os.kill(child_of(house).pid, signal.SIGKILL))
        await asked(base)

    with pytest.raises(AnswerProblem, match="3 times within a minute"):
        house.run(die())


@pytest.mark.parametrize("train", ["", "A train"])
def test_a_server_that_hangs_is_ended(house, base, monkeypatch, train):
    """Beside a train too: it does nothing, and so does not only wait for a processor."""
    monkeypatch.setattr(child, "HEALTH_EVERY", 0.1)
    monkeypatch.setattr(child, "STUCK_SECONDS", 0.5)
    house.set(train=train)
    asyncio.run(until(lambda: house.gateway.facts.train == train))
    event = house.run(lost_after(base, lambda: os.kill(child_of(house).pid, signal.SIGSTOP)))
    assert event["code"] == "server_lost"
    assert house.run(asked(base))[1]


def test_a_server_that_hangs_while_it_loads_is_ended(house, base, monkeypatch):
    monkeypatch.setattr(child, "STILL_EVERY", 0.1)
    monkeypatch.setattr(child, "STILL_SECONDS", 1.0)

    async def freeze():
        await until(lambda: any(s.coming and s.coming.pid for s in house.gateway.servers.values()))
        (server,) = house.gateway.servers.values()
        os.kill(server.coming.pid, signal.SIGSTOP)

    async def both():
        return await asyncio.gather(asked(base), freeze())

    with pytest.raises(AnswerProblem, match="did not start"):
        house.run(both())
    assert house.run(asked(base))[1]


def test_nobody_asks_and_it_is_unloaded(house, base):
    house.run(asked(base))
    house.set(idle_seconds=0)
    asyncio.run(until(lambda: not house.state()["models"]))


def test_beside_a_train_one_thread_computes(house, base):
    house.run(asked(base))
    order = child_of(house).order
    assert (order.threads, order.is_beside_a_train) == (0, False)

    house.set(train="A train")
    asyncio.run(until(lambda: house.gateway.facts.train))
    states, _ = house.run(asked(base))
    assert "loading" in phases(states)
    order = child_of(house).order
    assert (order.threads, order.is_beside_a_train) == (1, True)
    assert os.sched_getscheduler(child_of(house).pid) == os.SCHED_IDLE


@pytest.mark.parametrize(
    ("facts", "is_refused"),
    [
        ({"rule": Rule.TRAINS, "train": "A train"}, True),
        ({"rule": Rule.TRAINS, "waits": True}, True),
        ({"rule": Rule.CHAT, "train": "A train"}, True),
        ({"rule": Rule.CHAT, "waits": True}, False),
        ({"rule": Rule.SHARE, "train": "A train", "waits": True}, False),
    ],
)
def test_the_rule_of_the_operator(house, base, facts, is_refused):
    house.run(asked(base))
    house.set(**facts)
    if not is_refused:
        asyncio.run(until(lambda: house.gateway.facts == house.facts))
        assert house.run(asked(base))[1]
        return

    asyncio.run(until(lambda: not house.state()["models"]))
    with pytest.raises(AnswerProblem) as caught:
        house.run(asked(base))
    assert caught.value.code == "device_busy"


def test_an_answer_has_time_to_come_to_its_end_before_a_train(house, base, monkeypatch):
    monkeypatch.setattr(gateway, "GRACE_SECONDS", 2.5)

    began = time.monotonic()
    event = house.run(lost_after(base, lambda: house.set(rule=Rule.TRAINS, waits=True)))
    assert event["code"] == "device_busy"
    assert time.monotonic() - began > 2


def test_a_model_that_is_archived_answers_no_more(house, base):
    words = "This model was archived or deleted."
    event = house.run(lost_after(base, lambda: house.gone.update({"model-1": words})))
    assert (event["status"], event["message"]) == (409, words)
    asyncio.run(until(lambda: not house.state()["models"]))


def test_one_place_for_models_goes_to_the_one_that_is_asked(house, base, other):
    house.set(models_at_once=1)
    house.run(asked(base))
    assert house.run(asked(other))[1]
    assert [model["base_key"] for model in house.state()["models"]] == [other.base_key]


def test_files_that_change_are_prepared_and_loaded_anew(house, other):
    house.run(asked(other))
    assert "preparing" not in phases(house.run(asked(other))[0])

    for path in Path(other.base_path).glob("*.safetensors"):
        os.utime(path)
    states, words = house.run(asked(other))
    assert "preparing" in phases(states)
    assert "loading" in phases(states)
    assert words


def test_a_folder_that_is_gone_is_said_to_be(house, base):
    with pytest.raises(AnswerProblem, match="are gone"):
        house.run(asked(replace(base, base_path=f"{base.base_path}-gone")))


def test_without_a_gateway_it_is_said(settings, tmp_path, base):
    settings.GATEWAY_SOCKET = tmp_path / "none.sock"
    with pytest.raises(AnswerProblem, match="gateway"):
        asyncio.run(closing(asked(base)))
