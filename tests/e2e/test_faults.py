"""Plugs pulled while a train runs: no phantom "running", nothing the engine wrote is lost, and it
goes on."""

import json

import psutil
import pytest

from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

# More than any test waits for: these trains are ended by what happens to them.
LONG = {
    "max_steps": 5000,
    "batch_size": 2,
    "evaluation_split": 0,
    "save_strategy": "steps",
    "save_every": 20,
}


@pytest.fixture(scope="module")
def dataset(platform: Platform):
    return platform.kept("toys-20.jsonl", toy_rows(20))


@pytest.fixture
def running(platform: Platform, dataset):
    run = platform.training(platform.start(dataset, **LONG), step=3)
    yield run
    platform.api("POST", f"trains/{run['id']}/stop/")
    platform.ended(run)


def supervisor_and_engine(platform: Platform) -> tuple[psutil.Process, psutil.Process]:
    return platform.supervisor_and_engine()


def events_of(platform: Platform, run: dict) -> list[dict]:
    lines = (platform.home / "runs" / str(run["id"]) / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def are_gone(*processes: psutil.Process) -> bool:
    """Whether they end; a killed process of many threads takes a moment to leave on a busy
    machine."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


def test_stop_saves_a_checkpoint_and_a_usable_model(platform, running):
    answer = platform.api("POST", f"trains/{running['id']}/stop/")
    assert answer.json()["status"] in ("stopping", "stopped")
    ended = platform.ended(running)
    assert (ended["status"], ended["error"]) == ("stopped", None)
    directory = platform.home / "runs" / str(running["id"])
    assert (directory / "model" / "adapter_model.safetensors").is_file()
    checkpoints = platform.get(f"trains/{running['id']}/checkpoints/")
    assert checkpoints[0]["step"] == ended["step"]
    assert platform.api("POST", f"trains/{running['id']}/stop/").json()["status"] == "stopped"


def test_a_cancelled_train_ends_where_it_is_and_keeps_what_was_saved(platform, dataset):
    run = platform.training(platform.start(dataset, **LONG | {"save_every": 5000}), step=3)
    path = f"trains/{run['id']}/"
    assert platform.api("POST", f"{path}save/").status_code == 200
    # The one that was asked for: the train's own would be its last step's.
    saved = platform.poll(f"{path}checkpoints/", lambda rows: rows)[0]["step"]
    assert (
        platform.api("POST", f"{path}stop/", json={"discard": True}).json()["status"] == "stopping"
    )
    ended = platform.ended(run)
    assert (ended["status"], ended["error"]) == ("stopped", None)
    assert not (platform.home / "runs" / str(run["id"]) / "model").exists()
    assert [row["step"] for row in platform.get(f"{path}checkpoints/")] == [saved]
    assert saved < ended["step"] < 5000
    assert platform.api("POST", f"{path}save/").status_code == 400


def test_a_killed_engine_is_a_failed_train_with_its_cause(platform, running):
    _, engine = supervisor_and_engine(platform)
    engine.kill()
    ended = platform.ended(running)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "killed")
    assert "signal 9" in ended["error"]["message"]
    assert "Memory had not run out" in ended["error"]["advice"]


def attempt_runs(platform: Platform, run: dict, attempt: int, step: int) -> dict:
    """The train as it is when its `attempt` has made step `step`."""
    return platform.poll(
        f"trains/{run['id']}/",
        lambda row: (
            row["attempt"] == attempt and row["status"] == "running" and row["step"] >= step
        ),
    )


def train_steps(platform: Platform, run: dict) -> list[int]:
    return [
        row["step"]
        for row in platform.get(f"trains/{run['id']}/metrics/")["rows"]
        if row["split"] == "train"
    ]


def test_a_killed_supervisor_takes_its_engine_along_and_the_train_begins_anew(platform, running):
    """Killed before its first checkpoint."""
    supervisor, engine = supervisor_and_engine(platform)
    supervisor.kill()
    row = attempt_runs(platform, running, attempt=2, step=2)
    assert row["error"] is None
    assert are_gone(engine)
    steps = train_steps(platform, running)
    assert steps == list(range(1, len(steps) + 1))


def test_a_killed_worker_leaves_no_orphan_comes_back_and_goes_on_from_the_checkpoint(
    platform, dataset
):
    run = platform.start(dataset, **LONG | {"max_steps": 120})
    platform.training(run, step=25)
    worker = platform.train_worker()
    supervisor, engine = supervisor_and_engine(platform)
    worker.kill()
    ended = platform.ended(run)
    assert (ended["status"], ended["step"]) == ("finished", 120)
    assert ended["attempt"] == 2
    assert train_steps(platform, run) == list(range(1, 121))
    assert are_gone(supervisor, engine)
    assert platform.train_worker().pid != worker.pid
    began = [
        event.get("resumed_from")
        for event in events_of(platform, run)
        if event["type"] == "started"
    ]
    assert began[0] is None
    assert began[1] >= 20


@pytest.mark.long
def test_a_stopped_train_goes_on_and_has_every_step_once(platform, dataset):
    run = platform.start(dataset, **LONG | {"max_steps": 150})
    platform.training(run, step=3)
    platform.api("POST", f"trains/{run['id']}/stop/")
    stopped = platform.ended(run)
    assert stopped["status"] == "stopped"

    answer = platform.api("POST", f"trains/{run['id']}/resume/", json={"step": stopped["step"] + 1})
    assert (answer.status_code, answer.json()["error"]["fields"]) == (
        400,
        {
            "step": [
                f"There is no whole checkpoint of step {stopped['step'] + 1}. Start it over from "
                "step 0, or copy it."
            ]
        },
    )
    assert platform.api("POST", f"trains/{run['id']}/resume/", by="bob").status_code == 404
    answer = platform.api("POST", f"trains/{run['id']}/resume/")
    assert answer.status_code == 200, answer.text

    ended = platform.ended(run)
    assert (ended["status"], ended["step"], ended["attempt"]) == ("finished", 150, 2)
    assert train_steps(platform, run) == list(range(1, 151))
    assert ended["duration_seconds"] > stopped["duration_seconds"]
    model = platform.home / "runs" / str(run["id"]) / "model" / "adapter_model.safetensors"
    assert model.is_file()


@pytest.mark.long
def test_a_redis_that_dies_costs_a_running_train_nothing(platform, dataset):
    run = platform.training(platform.start(dataset, **LONG | {"max_steps": 150}), step=3)
    platform.redis().kill()
    ended = platform.ended(run)
    assert (ended["status"], ended["step"]) == ("finished", 150)
    steps = [
        row["step"]
        for row in platform.get(f"trains/{run['id']}/metrics/")["rows"]
        if row["split"] == "train"
    ]
    assert steps == list(range(1, 151))


@pytest.mark.long
def test_a_waiting_train_stops_at_once_and_the_queue_goes_on(platform, running, dataset):
    second = platform.start(dataset, max_steps=1)
    third = platform.start(dataset, max_steps=1)
    waiting = platform.get(f"trains/{third['id']}/")
    assert (waiting["status"], waiting["queue_position"]) == ("queued", 2)
    assert platform.api("POST", f"trains/{second['id']}/stop/").json()["status"] == "stopped"
    assert platform.get(f"trains/{third['id']}/")["queue_position"] == 1
    platform.api("POST", f"trains/{running['id']}/stop/")
    assert platform.ended(third)["status"] == "finished"


def test_a_dataset_that_changed_on_disk_fails_the_train_before_it_learns(platform):
    dataset = platform.upload("changed.jsonl", toy_rows(20))
    (platform.home / "datasets" / str(dataset["id"]) / "data.jsonl").write_bytes(toy_rows(19))
    ended = platform.ended(platform.start(dataset, max_steps=1))
    assert ended["status"] == "failed"
    assert ended["step"] == 0
    assert "changed" in ended["error"]["message"]


@pytest.mark.long
def test_the_worker_forks_a_process_that_has_imported_everything(platform, dataset):
    """From Run to the first optimizer step without import time: the engine starts with torch in
    memory."""
    run = platform.ended(platform.start(dataset, max_steps=1))
    assert run["status"] == "finished"
    assert "torch" in " ".join(region.path for region in platform.fork_server().memory_maps())


@pytest.mark.long
def test_a_fork_server_that_was_killed_is_there_again_for_the_next_train(platform, dataset):
    run = platform.training(platform.start(dataset, **LONG), step=3)
    server = platform.fork_server()
    server.kill()
    # Its engine goes with it, and the train comes back by itself.
    row = attempt_runs(platform, run, attempt=2, step=2)
    assert row["error"] is None
    assert platform.fork_server().pid != server.pid
    platform.api("POST", f"trains/{run['id']}/stop/")
    platform.ended(run)
