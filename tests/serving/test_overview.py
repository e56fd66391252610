"""The operator's page and its API, the rule, and what trains see of it."""

import os
import socket
import threading
import time

import pytest
from redis.exceptions import RedisError

from jobs.devices.locks import DeviceLocks
from jobs.devices.presence import Seat
from jobs.devices.sharing import (
    Rule,
    device_policy,
    devices_for_train,
    devices_held,
    minutes_held,
    shared_sides,
)
from jobs.models import DevicePolicy
from serving import overview
from serving.gateway.facts import Facts, FactsReader, Spot, keys_gone
from tests.training.claims import claim, machine_of, presences_of
from tests.world import NUMBER, world_make
from training.models import TrainRun
from training.work.claiming import train_claim
from training.work.queue import queue_state

STATE = {
    "rule": "share",
    "device": {"kind": "cpu", "name": "A processor"},
    "train": "",
    "refusal": "",
    "models": [
        {
            "base_key": f"model-{NUMBER}",
            "backend": "llama.cpp",
            "reason": "llama.cpp, since it knows it",
            "note": "",
            "phase": "ready",
            "adapters": [f"train-{NUMBER}-step-2"],
            "threads": 0,
            "parallel": 4,
            "context": 512,
            "pids": [1],
            "memory_bytes": 10**9,
            "answering": 1,
            "waiting": 2,
            "load_seconds": 1.5,
            "idle_seconds": 0,
        }
    ],
    "preparing": [
        {"base_key": "model-9", "adapter_key": "", "words": "Preparing the model", "progress": 0.5}
    ],
}


@pytest.fixture
def loaded(monkeypatch):
    monkeypatch.setattr(overview, "gateway_state", lambda: STATE)


@pytest.fixture(autouse=True)
def home(tmp_path, settings):
    settings.HOME = tmp_path
    settings.GATEWAY_SOCKET = tmp_path / "none.sock"


def test_operators_see_what_is_loaded(client, otto, alice, loaded):
    world_make(alice, canary="alices")
    client.force_login(otto)
    page = client.get("/serving/").content.decode()
    for words in ("alices model", "alices train", "step 2", "1.0 GB", "2 waiting", "Unload"):
        assert words in page

    body = client.get("/api/v1/serving/").json()
    assert body["models"][0]["title"] == "alices model"
    assert body["preparing"][0]["title"] == "Somebody else's model"
    assert (body["rule"], body["rule_now"]) == ("automatic", "share")


def test_others_see_nothing(client, alice, bob, stan, loaded):
    for user in (alice, bob, stan):
        client.force_login(user)
        assert "Serving" not in client.get("/models/").content.decode()
        for path in ("/serving/", "/api/v1/serving/"):
            assert client.get(path).status_code == 403
        for path in ("/serving/policy/", "/serving/unload/", "/api/v1/serving/unload/"):
            assert client.post(path, {"base_key": "model-1", "rule": "chat"}).status_code in (
                302,
                403,
            )
        assert not DevicePolicy.objects.exists()


def test_without_a_gateway_the_page_says_so(client, otto):
    client.force_login(otto)
    assert "not running" in client.get("/serving/").content.decode()
    answer = client.post("/api/v1/serving/unload/", {"base_key": "model-1"}, "application/json")
    assert answer.status_code == 503


def test_the_policy_is_changed(client, otto, loaded):
    client.force_login(otto)
    sent = {"rule": "chat", "idle_minutes": "3", "models_at_once": "2"}
    assert client.post("/serving/policy/", sent).status_code == 302
    policy = device_policy()
    assert (policy.rule, policy.idle_minutes, policy.models_at_once) == ("chat", 3, 2)

    answer = client.patch("/api/v1/serving/policy/", {"rule": "automatic"}, "application/json")
    assert answer.json()["rule"] == "automatic"
    for wrong in ({"rule": "mine"}, {"idle_minutes": 0}, {"idle_minutes": 10**9}, {"what": 1}):
        answer = client.patch("/api/v1/serving/policy/", wrong, "application/json")
        assert answer.status_code == 400, wrong
    for name in ("idle_minutes", "models_at_once"):
        client.post("/serving/policy/", sent | {name: "99999999"})
    assert device_policy().idle_minutes == 3
    assert client.get("/admin/jobs/devicepolicy/").status_code == 200


def test_a_device_is_shared_or_alone(db):
    DevicePolicy(rule=Rule.TRAINS).save()
    with devices_for_train("cpu", ["cpu"]):
        assert shared_sides("cpu") is None

    sides = shared_sides("cpu")
    assert sides
    took = threading.Event()

    def train():
        with devices_for_train("cpu", ["cpu"]):
            took.set()

    DevicePolicy(rule=Rule.SHARE).save()
    with devices_for_train("cpu", ["cpu"]):
        pass
    DevicePolicy(rule=Rule.CHAT).save()
    rule = device_policy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.devices.sharing.device_policy", lambda: rule)
        waiting = threading.Thread(target=train)
        waiting.start()
        time.sleep(0.3)
        assert not took.is_set()
        for side in sides:
            os.close(side)
        assert took.wait(5)
        waiting.join()


class Redis:
    """Of Redis what the rule needs."""

    def __init__(self):
        self.keys = {}

    def set(self, key, value, ex):
        self.keys[key] = value

    def delete(self, key):
        self.keys.pop(key, None)

    def get(self, key):
        return self.keys.get(key)


def test_trains_wait_while_answers_go_first(client, alice, monkeypatch):
    from serving.gateway.facts import answers_tell

    redis = Redis()
    monkeypatch.setattr("jobs.devices.sharing.connection", lambda: redis)
    monkeypatch.setattr("jobs.devices.sharing.workers_present", list)
    run = world_make(alice).run
    TrainRun.objects.update(status="queued")
    DevicePolicy(rule=Rule.CHAT, idle_minutes=5).save()
    facts = Facts(rule=Rule.CHAT)
    assert not queue_state().holds

    answers_tell(facts, True, True)
    assert minutes_held() == 5
    # Answers of one machine do not hold the trains of another.
    assert minutes_held("elsewhere") == 0
    assert claim("cpu") is None
    client.force_login(alice)
    for path in (f"/trains/{run.pk}/", "/trains/queue/", "/trains/"):
        assert "Answers go first" in client.get(path).content.decode(), path

    DevicePolicy(rule=Rule.SHARE).save()
    assert not queue_state().holds
    DevicePolicy(rule=Rule.CHAT).save()
    answers_tell(facts, False, False)
    assert claim("cpu") == run


def facts_read() -> Facts:
    return FactsReader()()


def test_what_the_gateway_knows_of_trains(alice, monkeypatch):
    gpu = machine_of(1, kind="cuda")
    monkeypatch.setattr("serving.gateway.facts.workers_present", lambda: presences_of(gpu))
    world_make(alice, canary="alices")
    spot = Spot(("cuda:0",), name="CPU")
    assert facts_read() == Facts(rule=Rule.TRAINS, device_kind="cuda", spot=spot, spots=(spot,))
    TrainRun.objects.update(status="queued")
    assert facts_read().waits
    assert "go first" in facts_read().refusal
    TrainRun.objects.update(status="running", host=socket.gethostname())
    assert facts_read().train == f"alices train #{NUMBER}"
    DevicePolicy(rule=Rule.SHARE).save()
    assert facts_read().refusal == ""


def test_of_several_gpus_models_have_one_that_no_train_has(alice, monkeypatch):
    """They stay where they are as long as they can, and come back for nothing."""
    gpus = machine_of(3, kind="cuda")
    monkeypatch.setattr("serving.gateway.facts.workers_present", lambda: presences_of(gpus))
    run = world_make(alice, canary="alices").run
    found = facts_read()
    assert [spot.identities for spot in found.spots] == [("cuda:0",), ("cuda:1",), ("cuda:2",)]
    assert [spot.visible for spot in found.spots] == ["0", "1", "2"]
    before = found.after(Facts())
    assert (before.spot.identities, before.refusal) == (("cuda:2",), "")

    def trains_on(*indices: int) -> Facts:
        devices = [{"identity": f"cuda:{index}", "slot": "0"} for index in indices]
        values = {"status": "running", "host": socket.gethostname(), "devices": devices}
        TrainRun.objects.filter(pk=run.pk).update(**values)
        return facts_read()

    assert trains_on(0).after(before).spot == before.spot
    moved = trains_on(2).after(before)
    assert (moved.spot.identities, moved.refusal) == (("cuda:1",), "")
    assert trains_on(0).after(moved).spot.identities == ("cuda:1",)
    assert "A train has the device" in trains_on(0, 1, 2).after(moved).refusal

    DevicePolicy(rule=Rule.SHARE).save()
    shared = trains_on(1).after(moved)
    assert (shared.spot.identities, shared.refusal) == (("cuda:1",), "")


def test_a_train_that_waits_takes_a_gpu_without_models_first(alice, monkeypatch):
    gpus = machine_of(2, kind="cuda")
    monkeypatch.setattr("serving.gateway.facts.workers_present", lambda: presences_of(gpus))
    run = world_make(alice).run
    TrainRun.objects.filter(pk=run.pk).update(status="queued")
    assert not facts_read().waits
    TrainRun.objects.filter(pk=run.pk).update(parameters={"devices": 2})
    assert facts_read().waits


def test_models_leave_for_no_train_that_could_not_start_on_their_machine(alice, monkeypatch):
    """One that needs more devices than there are, and one that gathers them, may wait for hours."""
    gpus = machine_of(1, kind="cuda")
    monkeypatch.setattr("serving.gateway.facts.workers_present", lambda: presences_of(gpus))
    run = world_make(alice).run
    wide = {"status": "queued", "parameters": {"devices": 2}}
    TrainRun.objects.filter(pk=run.pk).update(**wide)
    assert facts_read().refusal == ""

    gpus = machine_of(2, kind="cuda")
    assert facts_read().waits
    other = world_make(alice, NUMBER + 100, "other").run
    devices = [{"identity": "cuda:0", "slot": "0"}]
    here = {"status": "running", "host": socket.gethostname(), "devices": devices}
    TrainRun.objects.filter(pk=other.pk).update(**here)
    assert (facts_read().waits, facts_read().refusal) == (False, "")


def test_models_stay_while_workers_or_the_queue_are_away(alice, monkeypatch):
    gpus = machine_of(2, kind="cuda")
    present = presences_of(gpus)
    monkeypatch.setattr("serving.gateway.facts.workers_present", lambda: list(present))
    read = FactsReader()
    before = read()
    assert (before.spot.identities, before.spot.visible) == (("cuda:1",), "1")

    lost = present.pop()
    assert read().after(before, is_loaded=True).spot == before.spot
    # Nothing is lost by loading elsewhere.
    assert read().after(before).spot.identities == ("cuda:0",)
    present[:] = [lost]
    assert read().after(before, is_loaded=True).spot == before.spot

    def fail() -> None:
        raise RedisError

    present.clear()
    assert read().spots == tuple(spot for spot in before.spots if spot.identities == ("cuda:1",))
    present[:] = presences_of(gpus)
    known = read()
    assert known.spots == before.spots
    monkeypatch.setattr("serving.gateway.facts.workers_present", fail)
    assert read() == known


def test_gpus_of_workers_that_were_each_shown_one_keep_their_names(alice, monkeypatch):
    """Each counts its own as the first."""
    names = {"G-1": "0", "G-2": "1"}
    lone = [
        presence | {"device": presence["device"] | {"identity": name, "visible": visible}}
        for presence, (name, visible) in zip(
            presences_of(machine_of(1, kind="cuda")) * 2, names.items(), strict=True
        )
    ]
    monkeypatch.setattr("serving.gateway.facts.workers_present", lambda: lone)
    spots = facts_read().spots
    assert {spot.identities[0]: spot.visible for spot in spots} == names


def test_a_gateway_of_an_earlier_version_holds_all_devices(alice, monkeypatch):
    redis = Redis()
    redis.keys["deepextension:answered:here"] = "1"
    monkeypatch.setattr("jobs.devices.sharing.connection", lambda: redis)
    DevicePolicy(rule=Rule.CHAT).save()
    assert devices_held("here", ["a", "b"]) == {"a", "b"}


def test_answers_hold_the_devices_on_which_they_are_written(alice, monkeypatch):
    from serving.gateway.facts import answers_tell

    machine = machine_of(2, kind="cuda")
    redis = Redis()
    monkeypatch.setattr("jobs.devices.sharing.connection", lambda: redis)
    monkeypatch.setattr("jobs.devices.sharing.workers_present", lambda: presences_of(machine))
    DevicePolicy(rule=Rule.CHAT).save()
    answers_tell(Facts(rule=Rule.CHAT, spot=Spot(("cuda:1",))), True, True)
    assert devices_held(socket.gethostname(), machine.devices) == {"cuda:1"}
    assert not queue_state().holds
    world_make(alice)
    TrainRun.objects.update(status="queued", parameters={"devices": 2})

    def claimed(identity: str) -> TrainRun | None:
        locks = DeviceLocks()
        try:
            return train_claim(Seat(machine, identity, [machine]), locks)
        finally:
            locks.close()

    assert [claimed("cuda:1"), claimed("cuda:0")] == [None, None]
    TrainRun.objects.update(parameters={})
    # Any worker of the machine may start it, on the other device.
    run = claimed("cuda:1")
    assert run is not None
    assert [device["identity"] for device in run.devices] == ["cuda:0"]


def test_a_train_says_that_a_model_is_loaded_on_its_device(client, alice, monkeypatch):
    from serving.gateway.facts import answers_tell

    redis = Redis()
    monkeypatch.setattr("jobs.devices.sharing.connection", lambda: redis)
    world_make(alice)
    client.force_login(alice)
    words = "A model is loaded on the same device."
    page, live = f"/trains/{NUMBER}/", f"/api/v1/trains/{NUMBER}/live/"

    def seen(**fields) -> list[bool]:
        TrainRun.objects.update(host=socket.gethostname(), **fields)
        told = client.get(live).json()["beside"]
        return [words in client.get(page).content.decode(), told.startswith(words)]

    here, other = ([{"identity": name}] for name in ("cuda:1", "cuda:0"))
    assert seen(status="running", devices=here) == [False, False]
    answers_tell(Facts(spot=Spot(("cuda:1",))), False, True)
    assert seen(devices=here) == [True, True]
    assert seen(devices=other) == [False, False]
    assert seen(devices=here, status="finished") == [False, False]
    assert seen(status="running", facts={"device": {"kind": "cuda"}}) == [False, False]
    assert "on the same GPU" in client.get(live).json()["beside"]


def test_what_is_archived_or_deleted_is_gone(alice):
    world = world_make(alice)
    keys = [f"{kind}-{pk}" for kind in ("model", "train", "export") for pk in (NUMBER, 5)]
    assert set(keys_gone([*keys, "odd"])) == {"model-5", "train-5", "export-5"}

    type(world.model).objects.update(archived_at="2026-01-01T00:00Z")
    assert set(keys_gone(keys)) == {*keys} - {f"train-{NUMBER}"}


def test_a_train_that_waits_for_the_device_can_be_stopped(db):
    """It need not wait out the time that model servers have to leave."""
    DevicePolicy(rule=Rule.TRAINS).save()
    sides = shared_sides("cpu")
    assert sides
    asked = iter([False, True])
    with devices_for_train("cpu", ["cpu"], lambda: next(asked)):
        assert next(asked, None) is None
    for side in sides:
        os.close(side)
