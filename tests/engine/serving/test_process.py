"""A model server as a process: what it prints, when it ends, and what it survives."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from engine.loading.pretrained import pretrained_load
from engine.serving.generation import End, Task, Token, Writer, Writing
from engine.serving.llama_cpp import LEAST_CONTEXT, Cache, cache_plan
from engine.serving.order import LLAMA_CPP, ServeOrder
from engine.serving.sampling import Sampling
from tests.engine.serving.servers import CHAT, QUESTION, Server, ServerProcess, order_of
from tests.live import ROOT

# One process makes the models.
pytestmark = [pytest.mark.long, pytest.mark.long, pytest.mark.xdist_group("serving")]

ORDER = ServeOrder(LLAMA_CPP, "x", parallel=4)
# Of a model with 10 layers of 2 heads with 8 numbers each: 640 bytes a token.
FACTS = {
    "llama.context_length": [4096],
    "llama.block_count": [10],
    "llama.embedding_length": [32],
    "llama.attention.head_count": [4],
    "llama.attention.head_count_kv": [2],
}


def test_it_says_what_it_does_and_ends_with_its_input(served):
    order = order_of(LLAMA_CPP, served.file, served.adapter_file)
    process = ServerProcess(replace(order, idle_priority=True))
    assert [*process.said[0]] == ["phase"]
    ready = process.ready
    assert sorted(ready.extras) == ["", "train-1"]
    assert Server(ready, LLAMA_CPP).text()

    # Of all threads: those that compute are others than the first.
    threads = [int(path.name) for path in Path(f"/proc/{process.process.pid}/task").iterdir()]
    assert len(threads) > 1
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
    assert process.end() == 0


def test_why_a_model_cannot_be_loaded_is_said(tmp_path):
    broken = tmp_path / "model.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    process = ServerProcess(ServeOrder(LLAMA_CPP, str(broken)))
    assert [*process.said[-1]] == ["error"]
    assert process.said[-1]["error"].endswith((".", "?"))
    assert process.end() == 1


def test_it_dies_with_the_process_that_started_it(served):
    """Though somebody else still holds its input open."""
    read, write = os.pipe()
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'engine.serving'], stdin=sys.stdin,"
        " stdout=subprocess.PIPE)\n"
        "child.stdout.readline(), child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    order = order_of(LLAMA_CPP, served.file, served.adapter_file)
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=read, stdout=subprocess.PIPE, text=True
    )
    os.write(write, order_line(order))
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or is_zombie(child):
            break
        time.sleep(0.05)
    else:
        pytest.fail("it runs on")

    os.close(read)
    os.close(write)


def order_line(order: ServeOrder) -> bytes:
    return json.dumps(asdict(order)).encode() + b"\n"


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_schema_without_end_takes_no_memory_without_end(llama_cpp: Server):
    """llama.cpp writes "at least 5, at most 2 letters" out as a grammar until memory ends."""
    schema = {"type": "string", "minLength": 5, "maxLength": 2}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    status, error = llama_cpp.refused(CHAT, {"messages": QUESTION, "response_format": form})
    assert status == 400
    assert "grammar" in error["message"]
    assert llama_cpp.text()


@pytest.mark.parametrize(
    ("order", "budget", "planned"),
    [
        (ORDER, 10**9, Cache(4096, 4)),
        (ORDER, 640 * 9000, Cache(4096, 2)),
        (ORDER, 640 * 5000, Cache(4096, 1)),
        (ORDER, 640 * 1000, Cache(1000, 1)),
        (ORDER, 0, Cache(LEAST_CONTEXT, 1)),
        (replace(ORDER, context=2048), 0, Cache(2048, 1)),
        (replace(ORDER, context=2048), 640 * 5000, Cache(2048, 2)),
        (replace(ORDER, context=9999), 10**9, Cache(4096, 4)),
    ],
)
def test_each_conversation_has_room_for_its_longest(order, budget, planned):
    cache = cache_plan(order, FACTS, budget)
    assert cache == planned
    # llama.cpp ends all answers once the pool is full.
    assert cache.pool >= cache.context * cache.parallel


def test_a_long_model_with_little_memory_answers_several_at_once():
    facts = FACTS | {"llama.context_length": [131_072]}
    assert cache_plan(ORDER, facts, 640 * 32_768) == Cache(8192, 4)


class Slow:
    """A model that waits before each step, so that a test can leave in the middle."""

    def __init__(self, model):
        self.model, self.steps = model, 0
        self.at_third, self.may_go_on = threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, *arguments, **options):
        self.steps += 1
        if self.steps == 3:
            self.at_third.set()
            assert self.may_go_on.wait(20)
        return self.model(*arguments, **options)


def test_who_leaves_is_not_written_for_beyond_one_token(served):
    model = Slow(pretrained_load(served.base).eval())
    writer = Writer(model, adapted=False, parallel=1)
    writer.start()
    said: list[object] = []
    left = Task([5, 6], "", Sampling(max_tokens=400), set(), said.append)
    writer.add(left)
    assert model.at_third.wait(20)
    left.left.set()
    model.may_go_on.set()

    ended = threading.Event()
    nexts: list[object] = []

    def say(news: object) -> None:
        nexts.append(news)
        if isinstance(news, End):
            ended.set()

    writer.add(Task([7], "", Sampling(max_tokens=2), set(), say))
    assert ended.wait(20)
    assert nexts[-1] == End(is_stop=False)
    assert (len(said), model.steps) == (3, 5)


@pytest.mark.parametrize("name", ["llama", "gemma2 with windows"])
def test_a_prompt_read_in_parts_is_read_as_a_whole(name, served, tiny, monkeypatch):
    monkeypatch.setattr("engine.serving.generation.CHUNK", 64)
    model = pretrained_load(tiny if name == "llama" else served.base, dtype=torch.float32).eval()
    prompt = torch.randint(5, 300, (1, 400), generator=torch.Generator().manual_seed(4))
    whole = model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=[])

    said: list[Token | End] = []
    task = Task(prompt[0].tolist(), "", Sampling(temperature=0, max_tokens=12), set(), said.append)
    writing = Writing(model, task)
    steps = 1
    while not writing.step():
        steps += 1
    assert [news.id for news in said if isinstance(news, Token)] == whole[0, 400:].tolist()
    assert steps == 12 + (400 // 64 if name == "llama" else 0)
