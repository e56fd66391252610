"""The gateway of a running platform: it answers beside a train, and what is killed disturbs none."""

import asyncio
import os
import signal
import time

import pytest

from serving.answering import CHAT, AnswerProblem, Data, answer_stream
from serving.leases import sessions_close
from serving.targets import Placement
from tests.live import Platform

pytestmark = pytest.mark.long

QUESTION = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "What colour is the sky?"}],
    "max_tokens": 200,
    "temperature": 0,
}
ROWS = b'{"prompt": "Question?", "completion": "The answer is yes."}\n' * 20


@pytest.fixture
def tiny(platform: Platform, settings) -> Placement:
    settings.GATEWAY_SOCKET = platform.home / "run" / "gateway.sock"
    (model,) = (row for row in platform.get("models/")["results"] if row["slug"] == "tiny")
    folder = platform.home / "models" / str(model["id"])
    return Placement(f"model-{model['id']}", str(folder), size_bytes=model["size_bytes"])


def ask(placement, on_ready=lambda: None):
    """How many pieces came. on_ready: called once the model server is there, before it is asked."""

    async def asked():
        count = 0
        try:
            async for part in answer_stream(placement, CHAT, QUESTION):
                if isinstance(part, Data):
                    count += 1
                elif part.phase == "ready":
                    on_ready()
        finally:
            await sessions_close()
        return count

    return asyncio.run(asked())


def gateway_of(platform: Platform):
    return next(
        process
        for process in platform.processes("manage.py", "gateway")
        if "engine.serving" not in process.cmdline()
    )


def test_killed_while_it_answers_it_is_there_again_and_no_train_is_disturbed(
    platform: Platform, tiny: Placement
):
    run = platform.start(platform.kept("beside.jsonl", ROWS), max_steps=400, sample_prompts=0)
    platform.training(run)
    assert ask(tiny) > 1

    # A tiny model has written its answer before anybody can kill something: it is stopped first.
    def kill():
        for server in platform.processes("engine.serving"):
            os.kill(server.pid, signal.SIGSTOP)
        os.kill(gateway_of(platform).pid, signal.SIGKILL)

    with pytest.raises(AnswerProblem) as caught:
        ask(tiny, kill)
    assert caught.value.code == "server_lost"

    deadline = time.monotonic() + 60
    while True:
        try:
            assert ask(tiny) > 1
            break
        except AnswerProblem:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    # What the first gateway had started ended with it.
    servers = platform.processes("-m", "engine.serving")
    assert {server.parent().pid for server in servers} == {gateway_of(platform).pid}

    platform.api("POST", f"trains/{run['id']}/stop/", json={})
    ended = platform.ended(run)
    assert (ended["status"] in ("stopped", "finished"), ended["error"]) == (True, None)


def test_operators_see_it(platform: Platform, tiny: Placement):
    ask(tiny)
    state = platform.get("serving/", by="olga")
    (model,) = state["models"]
    assert model["base_key"] == tiny.base_key
    assert model["memory_bytes"] > 0
    assert model["title"] in platform.page("serving/", by="olga")
    platform.api("POST", "serving/unload/", by="olga", json={"base_key": tiny.base_key})
    assert platform.get("serving/", by="olga")["models"] == []
