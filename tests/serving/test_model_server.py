"""Who is answered by which child. The children are stand-ins: what is tested is the line, the choice
of adapters and what follows from a child that does not load."""

import asyncio
from dataclasses import replace

import pytest

from jobs.devices.sharing import Rule
from serving.gateway import model_server
from serving.gateway.adapters import MOST_ADAPTERS
from serving.gateway.child import Child, ChildOrder
from serving.gateway.facts import Facts, Spot
from serving.gateway.gateway import Gateway
from serving.gateway.model_server import ModelServer
from serving.gateway.prepared import Files
from serving.gateway.problems import ServeProblem
from serving.targets import Placement

BASE = Files("llama.cpp", "base.gguf", "mark", size_bytes=1)
BUSY = ServeProblem("A train has the device.", code="device_busy")


class Quick(Child):
    """Loads at once, unless a broken adapter is on it."""

    broken: set[str] = set()
    started: list[list[str]] = []

    async def start(self, locks):
        self.started.append([*self.order.adapters])
        await asyncio.sleep(0.01)
        if self.broken & {self.order.files.base, *self.order.adapters}:
            raise ServeProblem("It cannot be read.", code="not_loaded")

        extras = {key: {} for key in ("", *self.order.adapters)}
        self.ready = {"url": "", "key": "", "extras": extras, "context": 1, "abilities": []}

    async def _end(self):
        pass


class Alone:
    """A gateway with room for everything."""

    threads = 0
    is_beside_a_train = False
    visible_devices = ""
    refusal: ServeProblem | None = None

    def device_locks(self):
        if self.refusal is not None:
            raise self.refusal
        return []

    async def make_room(self, server, needed_bytes):
        return ""

    def changed(self):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(model_server, "Child", Quick)
    monkeypatch.setattr(Quick, "broken", set())
    monkeypatch.setattr(Quick, "started", [])
    return Quick


def files_of(key: str) -> Files:
    return replace(BASE, adapter_key=key, adapter=key, adapter_mark=key)


async def asked(server, key="", **more):
    """How it ended: "ready", or the words of a refusal."""
    try:
        lease = server.ask(Placement(server.base_key, "base", key, key), files_of(key), **more)
    except ServeProblem as problem:
        return problem.message

    try:
        async with asyncio.timeout(10):
            while True:
                event = await lease.events.get()
                if event["phase"] == "ready":
                    await asyncio.sleep(0.01)
                    return "ready"
                if event["phase"] in ("refused", "lost"):
                    return event["message"]
    finally:
        server.leave(lease)


def test_a_broken_adapter_is_told_and_all_others_answer(quick):
    quick.broken = {"bad"}

    async def ask():
        server = ModelServer("model-1", "llama.cpp", Alone())
        keys = ["bad", "", "one", "two", "three", "bad", "one"]
        together = await asyncio.gather(*(asked(server, key) for key in keys))
        after = [await asked(server, key) for key in ("", "bad", "four", "")]
        return dict(zip(keys, together, strict=True)), after

    together, after = asyncio.run(ask())
    assert together.pop("bad") == "It cannot be read."
    assert {*together.values()} == {"ready"}
    assert after == ["ready", "It cannot be read.", "ready", "ready"]
    # It is left alone for a while.
    assert sum("bad" in adapters for adapters in quick.started) <= 3


def test_a_broken_base_is_left_alone_after_three_times(quick):
    quick.broken = {BASE.base}

    async def ask():
        server = ModelServer("model-1", "llama.cpp", Alone())
        return [await asked(server) for _ in range(4)]

    *first, last = asyncio.run(ask())
    assert first == ["It cannot be read."] * 3
    assert "3 times" in last
    assert len(quick.started) == 3


def test_that_a_train_has_the_device_is_no_death(quick):
    async def ask():
        house = Alone()
        house.refusal = BUSY
        server = ModelServer("model-1", "llama.cpp", house)
        refused = [await asked(server, "one") for _ in range(4)]
        house.refusal = None
        return refused, await asked(server, "one")

    refused, last = asyncio.run(ask())
    assert refused == [BUSY.message] * 4
    assert last == "ready"


def test_more_adapters_than_a_child_takes_are_all_answered(quick):
    async def ask():
        server = ModelServer("model-1", "llama.cpp", Alone())
        keys = [f"train-{number}" for number in range(20)]
        return await asyncio.gather(*(asked(server, key) for key in keys))

    assert asyncio.run(ask()) == ["ready"] * 20
    assert all(len(adapters) <= MOST_ADAPTERS for adapters in quick.started)
    assert len(quick.started) <= 4


def test_whoever_waits_for_files_that_have_changed_asks_again(quick):
    async def ask():
        server = ModelServer("model-1", "llama.cpp", Alone())
        old = server.ask(Placement("model-1", "base"), BASE)
        new = server.ask(Placement("model-1", "base"), replace(BASE, base_mark="another"))
        said = [await old.events.get() for _ in range(2)][-1]
        while (event := await new.events.get())["phase"] != "ready":
            pass
        return said, event

    said, event = asyncio.run(ask())
    assert (said["phase"], said["message"]) == ("refused", model_server.CHANGED.message)
    assert event["phase"] == "ready"


def test_a_child_is_given_as_many_as_it_answers_at_once(quick, monkeypatch):
    monkeypatch.setattr(Quick, "parallel", 2)

    async def ask():
        server = ModelServer("model-1", "llama.cpp", Alone())
        leases = [server.ask(Placement("model-1", "base"), BASE) for _ in range(3)]
        while not server.current:
            await asyncio.sleep(0.01)
        return [lease.latest["phase"] for lease in leases]

    assert asyncio.run(ask()) == ["ready", "ready", "waiting"]


@pytest.fixture
def gateway(settings, tmp_path, monkeypatch):
    settings.HOME = tmp_path
    monkeypatch.setattr("serving.gateway.line.HOLD_SECONDS", 0.3)
    return Gateway(
        read_facts=Facts,
        find_gone=lambda keys: {},
        tell_answers=lambda facts, is_asked, is_loaded: None,
        clean=lambda loaded: None,
    )


def servers_of(gateway, *names, backend="llama.cpp"):
    servers = [ModelServer(name, backend, gateway) for name in names]
    gateway.servers |= {(server.base_key, backend): server for server in servers}
    return servers


async def both_asked(servers):
    """How many are loaded once both have been answered."""
    answers = await asyncio.gather(*(asked(server) for server in servers))
    assert answers == ["ready", "ready"]
    return sum(bool(server.children) for server in servers)


@pytest.mark.parametrize(
    ("facts", "backend", "most"),
    [
        ({"models_at_once": 1}, "llama.cpp", 1),
        ({"models_at_once": 2}, "llama.cpp", 2),
        ({"models_at_once": 2, "device_kind": "cuda"}, "llama.cpp", 2),
        ({"models_at_once": 2, "device_kind": "cuda"}, "vllm", 1),
    ],
)
def test_two_that_are_asked_at_once_take_one_place_each(quick, gateway, facts, backend, most):
    async def ask():
        gateway.facts = Facts(**facts)
        return await both_asked(servers_of(gateway, "one", "two", backend=backend))

    assert asyncio.run(ask()) == most


def test_what_is_being_loaded_is_counted_with_the_memory_it_will_take(quick, gateway, monkeypatch):
    needed = model_server._memory_needed(ChildOrder(BASE))
    monkeypatch.setattr("serving.gateway.gateway.memory_available", lambda: int(needed * 1.5))

    async def ask():
        first, second = servers_of(gateway, "one", "two")
        return await gateway.make_room(first, needed), await gateway.make_room(second, needed)

    first_told, second_told = asyncio.run(ask())
    assert first_told == ""
    assert "Waiting" in second_told


def test_people_who_ask_another_model_do_not_wait_for_the_end_of_a_batch(quick, gateway):
    async def ask():
        gateway.facts = Facts(models_at_once=1)
        first, second = servers_of(gateway, "one", "two")

        async def batch():
            while True:
                assert await asked(first, background=True) == "ready"

        running = [asyncio.create_task(batch()) for _ in range(3)]
        stepping = asyncio.create_task(step_often(first))
        while not first.children:
            await asyncio.sleep(0.01)
        answer = await asyncio.wait_for(asked(second), 5)

        # And then it goes on.
        count = len(quick.started)
        async with asyncio.timeout(5):
            while len(quick.started) == count:
                await asyncio.sleep(0.01)
        for task in (*running, stepping):
            task.cancel()
        return answer

    assert asyncio.run(ask()) == "ready"


async def step_often(server):
    """As the gateway's housekeeping does."""
    while True:
        await asyncio.sleep(0.05)
        server.step()


@pytest.mark.parametrize(
    ("more", "is_told"),
    [({}, True), ({"background": True}, False), ({"answers": False}, False)],
)
def test_trains_wait_for_answers_to_people_alone(quick, gateway, more, is_told):
    reports = []
    gateway.tell_answers = lambda facts, is_asked, is_loaded: reports.append(is_asked)

    async def ask():
        (server,) = servers_of(gateway, "one")
        lease = server.ask(Placement("one", "base"), BASE, **more)
        while lease.latest.get("phase") != "ready":
            await asyncio.sleep(0.01)
        await gateway._obey_rule()
        server.leave(lease)
        await gateway._obey_rule()

    asyncio.run(ask())
    assert reports == [is_told, is_told]


def test_models_leave_a_gpu_that_a_train_takes_for_another_one(quick, gateway):
    """An answer that is being written comes to its end first."""
    first, second = (Spot((f"cuda:{index}",), visible=str(index)) for index in range(2))
    rule = Facts(rule=Rule.TRAINS, device_kind="cuda", spot=second, spots=(first, second))

    async def ask():
        gateway.facts = rule
        (server,) = servers_of(gateway, "one")
        lease = server.ask(Placement("one", "base"), BASE)
        while lease.latest.get("phase") != "ready":
            await asyncio.sleep(0.01)

        gateway.facts = replace(
            rule, spot=replace(second, train="A train"), spots=(first, replace(second, train="A"))
        ).after(rule)
        await gateway._obey_rule()
        answering = [child.order.visible_devices for child in server.children]
        server.leave(lease)
        await gateway._obey_rule()
        left = list(server.children)
        again = await asked(server)
        return answering, left, again, [child.order.visible_devices for child in server.children]

    assert asyncio.run(ask()) == (["1"], [], "ready", ["0"])
