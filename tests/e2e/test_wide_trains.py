"""A machine of two devices, which are halves of its processors: narrow trains side by side, and one
of two devices that gathers them, is stopped, loses its worker and resumes."""

import psutil
import pytest

from tests.e2e.test_main_job import toy_rows
from tests.live import Platform, running_platform

pytestmark = pytest.mark.long

LONG = {"max_steps": 5000, "sample_prompts": 0, "evaluation_split": 0, "batch_size": 2}
SHORT = LONG | {"max_steps": 2}


@pytest.fixture(scope="module")
def platform():
    with running_platform(variables={"DEEPEXTENSION_CPU_DEVICES": "2"}) as running:
        running.poll("queue/", lambda queue: queue["workers"] == 2)
        yield running


@pytest.fixture(scope="module")
def dataset(platform: Platform):
    return platform.upload("wide.jsonl", toy_rows(40))


def stop(platform: Platform, run: dict, **body) -> dict:
    assert platform.api("POST", f"trains/{run['id']}/stop/", json=body).status_code == 200
    return platform.ended(run)


def supervisors(platform: Platform) -> list[psutil.Process]:
    """Of the trains that run: forks of workers."""
    return [
        child
        for worker in platform.processes("manage.py", "train_worker")
        for child in worker.children()
        if "train_worker" in child.cmdline()
    ]


def test_a_wide_train_gets_what_two_narrow_ones_had(platform, dataset):
    narrow = [platform.start(dataset, name=f"narrow-{n}", **LONG) for n in range(2)]
    rows = [platform.training(run) for run in narrow]
    assert sorted(row["devices"] for row in rows) == [["cpu 0"], ["cpu 1"]]

    wide = platform.start(dataset, name="wide", devices=2, **SHORT)
    behind = platform.start(dataset, name="behind", **SHORT)
    first, second = narrow
    stop(platform, first, discard=True)
    waits = platform.poll(f"trains/{wide['id']}/", lambda row: "1 is free" in row["activity"])
    assert waits["activity"].startswith("It gathers 2 devices")
    assert platform.get(f"trains/{behind['id']}/")["status"] == "queued"

    stop(platform, second, discard=True)
    done = platform.ended(wide)
    assert (done["status"], done["step"]) == ("finished", 2), done["error"]
    assert done["devices"] == ["cpu 0", "cpu 1"]
    assert platform.ended(behind)["started_at"] >= done["finished_at"]


def test_a_wide_train_is_stopped_loses_its_worker_and_resumes(platform, dataset):
    run = platform.start(dataset, devices=2, save_strategy="steps", save_every=5, **LONG)
    platform.training(run, step=6)
    stations = platform.get("queue/")["stations"]
    assert sorted((row["is_busy"], row["is_lent"]) for row in stations) == [
        (True, False),
        (True, True),
    ]

    (supervisor,) = supervisors(platform)
    supervisor.kill()

    def goes_on(attempt: int, after: int) -> dict:
        return platform.poll(
            f"trains/{run['id']}/",
            lambda row: (
                (row["attempt"], row["status"]) == (attempt, "running") and row["step"] > after
            ),
        )

    assert goes_on(2, after=6)["devices"] == ["cpu 0", "cpu 1"]
    stopped = stop(platform, run)
    assert stopped["status"] == "stopped", stopped["error"]

    assert platform.api("POST", f"trains/{run['id']}/resume/").status_code in (200, 201, 202)
    goes_on(3, after=stopped["step"])
    assert stop(platform, run)["status"] == "stopped"
    rows = []
    while answer := platform.get(
        f"trains/{run['id']}/metrics/", after=rows[-1]["seq"] if rows else 0
    )["rows"]:
        rows += answer
    steps = [row["step"] for row in rows if row["split"] == "train"]
    assert steps == list(range(1, len(steps) + 1))


def test_more_devices_than_there_are_are_refused(platform, dataset):
    body = {
        "method": "lora",
        "base_model": "tiny",
        "dataset": dataset["id"],
        "parameters": {"devices": 3, "max_steps": 1},
    }
    answer = platform.api("POST", "trains/", json=body)
    assert answer.status_code == 400
    fields = answer.json()["error"]["fields"]
    assert fields == {"parameters.devices": ["3 devices are asked for; the machines here have 2."]}
    assert 'name="devices"' in platform.page("trains/new/lora/")
