"""Trains on a Ray cluster: who may run there, how several share its devices, and what pages say. What
workers announce stands in tests/jobs/test_clusters.py, what runs for real in tests/cluster."""

import json
import runpy
import socket
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from core.errors import UserError
from datasets_app.models import TokenLengths
from jobs.devices import cluster, presence
from jobs.devices.launchers import LOCAL, RAY
from jobs.devices.locks import DeviceLocks
from jobs.devices.machines import machine_key, machines_note, machines_present
from jobs.devices.presence import Seat
from jobs.models import Machine
from methods.models import CUSTOM
from methods.services import parameters_validate
from models_app.models import BaseModel
from serving.gateway import facts
from tests.training.claims import machine_of, presences_of
from tests.training.test_forecast import TOKENIZER, model_files
from tests.training.test_wide import words
from training.forecast.devices import devices_present
from training.forecast.making import forecast_make
from training.models import TrainRun
from training.pages import queue_page
from training.pages.queue_page import queue_page as queue_of
from training.train.estimate import starts_now
from training.train.resuming import train_end_or_resume
from training.train.services import train_create
from training.work.claiming import train_claim, waiting_trains_notify
from training.work.outcome import failure, worker_lost
from training.work.reasons import NO_LOCAL, waiting_reason

NAME = "ray:8265"
AWAY = f"The Ray cluster at http://{NAME} cannot be reached (connection refused). Its trains wait."


class House:
    """A machine with one device, and a cluster whose workers are lane-0 and lane-1."""

    def __init__(self, nodes: list[str]) -> None:
        self.local = presences_of(machine_of(1))
        self.nodes = nodes
        self.kind = "cpu"
        self.memory_gb = 8.0
        self.away = AWAY
        self.held: dict[int, DeviceLocks] = {}

    @property
    def devices(self) -> list[dict]:
        return [
            {
                "kind": self.kind,
                "name": "2 CPUs",
                "identity": f"{node}:0",
                "index": index,
                "memory_gb": self.memory_gb,
                "bf16": self.kind == "cuda",
                "node": node,
            }
            for index, node in enumerate(self.nodes)
        ]

    def lanes(self) -> list[dict]:
        return [
            {
                "name": f"lane-{index}",
                "host": socket.gethostname(),
                "slot": "0",
                "process": "-",
                "launcher": RAY,
                "cluster": NAME,
                "away": "" if self.nodes else self.away,
            }
            for index in range(2)
        ]

    def present(self) -> list[dict]:
        devices = self.devices
        here = [
            lane
            | {
                "device": devices[0],
                "devices": len(devices),
                "cluster": {"name": NAME, "devices": devices},
            }
            for lane in self.lanes()
            if devices
        ]
        return [*self.local, *here]

    def claim(self, worker: str = "lane-0") -> TrainRun | None:
        machines = machines_present(self.present())
        machine = next(machine for machine in machines if worker in machine.worker_names)
        locks = DeviceLocks(machine.host if machine.is_cluster else "")
        run = train_claim(
            Seat(machine, next(iter(machine.devices)), machines),
            locks,
            worker=worker,
            host=socket.gethostname(),
            process="1:1",
            started_at=timezone.now(),
            heartbeat_at=timezone.now(),
        )
        if run is not None:
            self.held[run.pk] = locks
        return run

    @property
    def local_worker(self) -> str:
        return self.local[0]["name"]


@pytest.fixture
def house(db, monkeypatch, settings, tmp_path):
    settings.HOME = tmp_path
    settings.RAY_ADDRESS = f"http://{NAME}"
    of = House(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    for module in (presence, queue_page, facts):
        monkeypatch.setattr(module, "workers_present", of.present)
    for module in (cluster, queue_page):
        monkeypatch.setattr(module, "lanes_present", of.lanes)
    machines_note(machines_present(of.present()))
    yield of
    for locks in of.held.values():
        locks.close()


def test_two_narrow_trains_run_at_once_and_a_wide_one_waits_for_the_rest(house, stand):
    first, second = stand("first", launcher=RAY), stand("second", launcher=RAY)
    assert [house.claim(f"lane-{index}") for index in range(2)] == [first, second]
    first.refresh_from_db()
    second.refresh_from_db()
    taken = [run.devices[0]["identity"] for run in (first, second)]
    assert len(set(taken)) == 2
    assert first.cluster == NAME
    assert first.devices_text == f"1 device of the Ray cluster at {NAME}"

    wide = stand("wide", launcher=RAY, parameters={"devices": 3})
    assert house.claim() is None
    assert "gathers 3 devices on the Ray cluster at ray:8265: 1 is free" in waiting_reason(wide)

    for run in (first, second):
        run.transition(TrainRun.Status.FINISHED)
        house.held.pop(run.pk).close()
    assert house.claim() == wide


def test_a_train_runs_where_it_was_asked_to(house, stand):
    local, ray = stand("local", launcher=LOCAL), stand("ray", launcher=RAY)
    anywhere, another = stand("anywhere"), stand("another")
    assert house.claim() == ray
    assert house.claim(house.local_worker) == local
    assert house.claim("lane-1") == anywhere
    assert house.claim(house.local_worker) is None
    assert house.claim() == another


def test_one_that_ran_on_the_cluster_resumes_there_alone(house, choices):
    """Also where it lost its worker, by itself."""
    run, _ = train_create(name="anywhere", **choices)
    assert house.claim() == run
    run.refresh_from_db()
    assert train_end_or_resume(run, worker_lost())
    house.held.pop(run.pk).close()
    run.refresh_from_db()
    assert (run.status, run.attempt, run.launcher, run.launcher_now) == ("queued", 2, "", RAY)
    assert house.claim(house.local_worker) is None
    house.nodes = []
    assert waiting_reason(run) == AWAY
    house.nodes = ["back"]
    assert house.claim("lane-1") == run


@pytest.mark.parametrize("code", ["cluster_away", "cluster_ended"])
def test_one_whose_cluster_went_away_goes_back_to_the_queue(house, choices, settings, code):
    settings.RESUMES = 1
    run, _ = train_create(name="far", **choices, launcher=RAY)
    for attempt in (1, 2):
        assert house.claim() == run
        house.held.pop(run.pk).close()
        run.refresh_from_db()
        assert train_end_or_resume(run, failure(code, "It is away.", "-"))
        run.refresh_from_db()
        assert (run.status, run.attempt) == (("queued", 2) if attempt == 1 else ("failed", 2))


def test_a_custom_program_stays_on_this_platforms_machines(house, stand):
    run = stand("program")
    run.method.recipe = CUSTOM
    run.method.save()
    assert house.claim() is None
    assert house.claim(house.local_worker) == run


def test_devices_of_a_node_that_left_are_counted_elsewhere(house, stand):
    """Its train goes on where there is room, and not every other device is free."""
    house.nodes = ["a", "b"]
    first = stand("first", launcher=RAY)
    assert house.claim() == first
    first.refresh_from_db()
    assert first.devices[0]["identity"] == "a:0"
    second = stand("second", launcher=RAY)
    house.nodes = ["b"]
    assert house.claim("lane-1") is None
    house.nodes = ["b", "c"]
    assert house.claim("lane-1") == second


def test_what_waits_for_a_cluster_says_why(house, stand, client, alice):
    run = stand("waits", launcher=RAY)
    wide = stand("wide", launcher=RAY, parameters={"devices": 3})
    stand("other", launcher=LOCAL)
    house.nodes = []
    assert waiting_reason(run) == waiting_reason(wide) == AWAY
    client.force_login(alice)
    line = words(client.get("/trains/queue/"))
    assert line.count(AWAY) == 2
    page = words(client.get(run.get_absolute_url()))
    assert AWAY in page
    assert "starts when" not in page
    assert client.get(f"/api/v1/trains/{run.pk}/").json()["activity"] == AWAY

    # Also where no worker at all is there.
    kept, house.local[:] = list(house.local), []
    assert waiting_reason(run) == AWAY
    assert AWAY in words(client.get("/trains/queue/"))
    house.local[:] = kept

    house.nodes = ["a"]
    assert waiting_reason(run) == ""
    assert "the Ray cluster at ray:8265 has them, but only 1 device now" in waiting_reason(wide)


def test_what_waits_for_a_machine_of_the_platform_says_so(house, stand):
    run = stand("local", launcher=LOCAL)
    assert waiting_reason(run) == ""
    house.local.clear()
    assert waiting_reason(run) == NO_LOCAL
    assert house.claim() is None


def test_one_for_a_cluster_that_is_not_set_any_more_says_so(house, stand, settings):
    run = stand("ray", launcher=RAY)
    settings.RAY_ADDRESS = ""
    house.nodes = []
    assert "No Ray cluster is set up here any more" in waiting_reason(run)


def test_idle_workers_of_both_are_notified_by_their_own_queues(house, stand, monkeypatch, settings):
    sent = {}
    monkeypatch.setattr("training.work.queue.waiting_calls", lambda *_: 0)
    monkeypatch.setattr("training.work.queue._notify", sent.__setitem__)
    stand("one")
    assert waiting_trains_notify() == 3
    assert sent == {settings.TRAINS_QUEUE: 1, settings.CLUSTER_QUEUE: 2}


def test_a_start_is_estimated_on_machines_that_may_run_it(house, stand):
    local, ray = stand("local", launcher=LOCAL), stand("ray", launcher=RAY)
    assert house.claim(house.local_worker) == local
    assert starts_now()[ray.pk].seconds == 0
    later = stand("later", launcher=LOCAL)
    assert starts_now()[later.pk] is None


def test_the_queue_shows_each_worker_of_the_cluster_once(house, stand, client, alice, bob):
    run = stand("two", launcher=RAY, parameters={"devices": 2})
    assert house.claim() == run
    stations = queue_of(alice)["stations"]
    assert len(stations) == 3
    assert [station.run for station in stations if "cluster" in station.device["name"]] == [
        run,
        None,
    ]
    client.force_login(alice)
    page = words(client.get("/trains/queue/"))
    assert "Ray cluster at ray:8265 slot 1 of 2, 3 devices, 1 free" in page
    assert "two" in page
    client.force_login(bob)
    assert "Busy with somebody else's train" in words(client.get("/trains/queue/"))

    house.nodes = []
    client.force_login(alice)
    page = words(client.get("/trains/queue/"))
    assert AWAY in page
    assert "Its worker does not answer" not in page


def test_model_servers_are_never_on_a_cluster(house, stand):
    house.kind = "cuda"
    assert house.claim() is None
    run = stand("ray", launcher=RAY)
    assert house.claim() == run
    found = facts.FactsReader()()
    assert [spot.identities for spot in found.spots] == [("cpu:0",)]
    assert (found.device_kind, found.train, dict(found.takers)) == ("cpu", "", {})


# What is asked for


def test_a_train_is_asked_to_run_on_the_cluster(house, choices):
    run, _ = train_create(name="x", **choices, launcher=RAY)
    run.refresh_from_db()
    assert run.launcher == RAY
    assert "canary" not in (run.directory / "spec.json").read_text()


@pytest.mark.parametrize(
    ("launcher", "text"),
    [("slurm", "is not a launcher"), (RAY, "No Ray cluster is set up here")],
)
def test_what_cannot_be_asked_for(choices, settings, launcher, text):
    settings.RAY_ADDRESS = ""
    with pytest.raises(UserError) as refusal:
        train_create(name="x", **choices, launcher=launcher)
    assert text in refusal.value.fields["launcher"][0]


def test_a_custom_program_cannot_be_asked_to_run_there(house, choices):
    method = choices["method"]
    method.recipe = CUSTOM
    method.save()
    with pytest.raises(UserError, match="is a custom program"):
        train_create(name="x", **choices, launcher=RAY)


def test_more_devices_than_the_cluster_ever_had_are_refused(house, choices):
    wide = choices | {"parameters": {"devices": 4}}
    with pytest.raises(UserError, match="4 devices are asked for; the Ray cluster had 3 at most"):
        train_create(name="x", **wide, launcher=RAY)
    with pytest.raises(UserError, match="the machines here have 1"):
        train_create(name="x", **choices | {"parameters": {"devices": 3}}, launcher=LOCAL)
    house.nodes = []
    assert train_create(name="x", **choices | {"parameters": {"devices": 3}}, launcher=RAY)[1]


def test_what_needs_a_gpu_is_judged_by_what_the_cluster_has(house, choices):
    four_bits = choices | {"parameters": {"quantization": "4-bit"}}
    with pytest.raises(UserError):
        train_create(name="x", **four_bits, launcher=RAY)
    house.kind = "cuda"
    assert train_create(name="x", **four_bits, launcher=RAY)[1]
    with pytest.raises(UserError):
        train_create(name="x", **four_bits, launcher=LOCAL)

    # Also while it is away.
    machines_note(machines_present(house.present()))
    house.nodes = []
    assert train_create(name="x", **four_bits, launcher=RAY)[1]


def test_the_form_asks_only_where_there_is_a_cluster(house, client, alice, choices, settings):
    client.force_login(alice)
    form = "/trains/new/lora/"
    field = BeautifulSoup(client.get(form).content, "html.parser").select_one("#id-launcher")
    assert [option["value"] for option in field.select("option")] == ["", LOCAL, RAY]
    assert "Cluster: ray:8265" in field.parent.get_text()
    run, _ = train_create(name="x", **choices, launcher=RAY)
    page = BeautifulSoup(client.get(f"{form}?copy={run.pk}").content, "html.parser")
    assert page.select_one("#id-launcher option[selected]")["value"] == RAY

    settings.RAY_ADDRESS = ""
    assert b"id-launcher" not in client.get(form).content
    page = BeautifulSoup(client.get(f"{form}?copy={run.pk}").content, "html.parser")
    assert page.select_one("#id-launcher") is None
    assert "none can be chosen here now" in page.get_text()


def test_the_form_says_what_a_train_would_wait_for(house, client, alice, choices):
    client.force_login(alice)
    house.nodes = []
    model, dataset = choices["base_model"].pk, choices["dataset"].pk
    fields = {"base_model": model, "dataset": dataset, "launcher": RAY}
    plan = client.post("/trains/new/lora/plan/", fields).json()
    assert plan["warnings"]["launcher"] == plan["worker"]["message"] == AWAY
    assert not plan["worker"]["ready"]
    assert "launcher" not in plan["errors"]
    plan = client.post("/trains/new/lora/plan/", fields | {"launcher": "moon"}).json()
    assert "is not a launcher" in plan["errors"]["launcher"][0]
    plan = client.post("/trains/new/lora/plan/", fields | {"launcher": LOCAL}).json()
    assert "launcher" not in plan["warnings"]


def test_the_api_takes_shows_and_copies_it(house, client, alice, choices, settings):
    client.force_login(alice)
    body = {"method": "lora", "base_model": "tiny", "dataset": "toys", "parameters": {}}

    def post(path, **more):
        answer = client.post(path, json.dumps(more), content_type="application/json")
        return answer.status_code, answer.json()

    status, made = post("/api/v1/trains/", **body, launcher=RAY)
    assert (status, made["launcher"], made["cluster"]) == (201, RAY, "")
    status, copy = post(f"/api/v1/trains/{made['id']}/copy/")
    assert (status, copy["launcher"]) == (201, RAY)
    status, copy = post(f"/api/v1/trains/{made['id']}/copy/", launcher="")
    assert (status, copy["launcher"]) == (201, "")

    status, answer = post("/api/v1/trains/", **body, launcher="moon")
    assert (status, list(answer["error"]["fields"])) == (400, ["launcher"])
    settings.RAY_ADDRESS = ""
    status, answer = post(f"/api/v1/trains/{made['id']}/copy/")
    assert status == 400
    assert "No Ray cluster is set up here" in answer["error"]["fields"]["launcher"][0]


def test_the_overview_says_where_it_ran(house, stand, client, alice):
    run = stand("ray", launcher=RAY)
    assert house.claim() == run
    device = {"name": "NVIDIA L4", "kind": "cuda", "nodes": ["10.0.0.1", "10.0.0.2"]}
    TrainRun.objects.filter(pk=run.pk).update(facts={"device": device})
    client.force_login(alice)
    page = BeautifulSoup(client.get(run.get_absolute_url()).content, "html.parser")
    text = " ".join(page.select_one("#ran-on").get_text(" ").split())
    assert "1 device of the Ray cluster at ray:8265" in text
    assert "Nodes 10.0.0.1, 10.0.0.2" in text
    assert client.get(f"/api/v1/trains/{run.pk}/").json()["cluster"] == NAME


# Forecast


def test_devices_of_a_cluster_are_counted_once(house):
    found = devices_present(house.present(), launcher=RAY)
    assert [(device["name"], device["memory_gb"], device["workers"]) for device in found] == [
        ("2 CPUs", 8.0, 3)
    ]
    assert [device["name"] for device in devices_present(house.present(), launcher=LOCAL)] == [
        "CPU"
    ]
    assert len(devices_present(house.present())) == 2


def test_without_memory_or_precision_there_is_no_verdict(house, monkeypatch, large):
    monkeypatch.setattr("training.forecast.making.presences", house.present)
    asked = large | {"launcher": RAY}
    house.memory_gb = 0.0
    assert "does not say how much memory" in forecast_make(**asked).missing
    house.memory_gb = 1.0
    assert "whether the nodes' processors" in forecast_make(**asked).missing
    nodes, house.nodes = house.nodes, []
    assert "cluster cannot be reached" in forecast_make(**asked).missing
    house.nodes, house.memory_gb = nodes, 900.0
    fits = forecast_make(**asked)
    assert (fits.verdict, fits.may_try) == ("fits", False)
    house.kind, house.memory_gb = "cuda", 1.0
    assert forecast_make(**asked).cannot_fit


@pytest.fixture
def large(choices):
    """What a forecast is made of: rows of a large model."""
    method, model, dataset = (choices[name] for name in ("method", "base_model", "dataset"))
    BaseModel.objects.filter(pk=model.pk).update(tokenizer_sha256=TOKENIZER)
    model.refresh_from_db()
    model_files(model.path)
    TokenLengths.objects.create(
        dataset=dataset,
        tokenizer=TOKENIZER,
        model_path="models/1",
        rows={"700": 8},
        prompts={"100": 8},
        ready=True,
    )
    return {
        "method": method,
        "base_model": model,
        "dataset": dataset,
        "parameters": parameters_validate(method, {}, device="cpu"),
        "steps": 50,
    }


# Settings


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"DEEPEXTENSION_RAY_ADDRESS": "ray://head:10001"}, "no http or https address"),
        ({"DEEPEXTENSION_RAY_ADDRESS": "http://u:secret@head:8265"}, "holds no password"),
        ({"DEEPEXTENSION_RAY_LANES": "0"}, "from 1 to 16"),
        ({"DEEPEXTENSION_RAY_CPUS_PER_DEVICE": "-1"}, "0 or a number"),
    ],
)
def test_settings_that_cannot_be_read_stop_the_start(monkeypatch, variables, text):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=text):
        runpy.run_path(str(Path(__file__).parents[2] / "deepextension" / "settings.py"))


def test_the_machine_of_a_cluster_has_its_own_key(house):
    machine = machines_present(house.present())[-1]
    assert machine.key == machine_key(NAME, RAY)
    assert Machine.objects.get(host=NAME).words == f"the Ray cluster at {NAME}"
