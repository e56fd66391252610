"""Trains through the platform's queue over a Ray cluster of two nodes: wide, two at once, and one whose
worker is killed."""

import contextlib
import json
import os
import signal

import pytest

from tests.cluster.clients import LONG
from tests.live import ENDED, Platform, running_platform

pytestmark = pytest.mark.long

ROWS = b"\n".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"What colour has ball {number}?"},
                {"role": "assistant", "content": "It is red."},
            ]
        }
    ).encode()
    for number in range(24)
)
SECONDS = 240
STEPS = {"max_steps": 6, "sample_prompts": 0, "evaluation_split": 0, "batch_size": 2}


@pytest.fixture(scope="module")
def house(cluster):
    variables = {
        "DEEPEXTENSION_RAY_ADDRESS": cluster.address,
        "DEEPEXTENSION_RAY_TOKEN": cluster.token,
    }
    with running_platform(variables=variables) as platform:
        yield platform


def start(platform: Platform, name: str, launcher: str = "ray", **parameters):
    rows = platform.kept("balls.jsonl", ROWS)
    body = {
        "name": name,
        "method": "lora",
        "base_model": "tiny",
        "dataset": rows["id"],
        "launcher": launcher,
        "parameters": {"max_tokens": 64} | STEPS | parameters,
    }
    answer = platform.api("POST", "trains/", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def log_of(platform: Platform, run) -> str:
    return (platform.home / "runs" / str(run["id"]) / "train.log").read_text()


def test_a_train_goes_through_the_queue_onto_both_nodes(house: Platform, cluster):
    house.poll(
        "queue/",
        lambda queue: any(
            "2 devices, 2 free" in row["device"]["label"] for row in queue["stations"]
        ),
    )
    wide = start(house, "wide", devices=2)
    narrow = [start(house, f"narrow-{number}", max_steps=400) for number in range(2)]
    row = house.ended(wide, SECONDS)
    assert row["status"] == "finished", log_of(house, wide)
    assert row["cluster"] == cluster.address.removeprefix("http://")
    assert len(row["facts"]["device"]["nodes"]) == 2
    assert row["facts"]["ranks"] == 2
    assert row["step"] == 6
    page = house.page(f"trains/{wide['id']}/")
    assert all(node in page for node in row["facts"]["device"]["nodes"])

    # Two lanes, and so two trains of one device at once.
    for run in narrow:
        house.training(run)
    both = [house.get(f"trains/{run['id']}/") for run in narrow]
    assert [run["status"] for run in both] == ["running", "running"], both
    for run in narrow:
        house.api("POST", f"trains/{run['id']}/stop/", json={})
    assert [house.ended(run, SECONDS)["status"] for run in narrow] == ["stopped", "stopped"]

    for path in (house.home / "runs").rglob("*"):
        if path.is_file():
            assert cluster.token.encode() not in path.read_bytes(), path
    for path in (house.home / "logs").glob("*.log"):
        assert cluster.token not in path.read_text(errors="replace"), path
    assert cluster.token not in page + house.page("trains/queue/")


@LONG
def test_a_train_whose_worker_is_killed_resumes_on_the_cluster(house: Platform):
    """What is left of its first attempt trains on there until the second ends it."""
    saves = {"save_strategy": "steps", "save_every": 20, "save_total_limit": 100}
    run = start(house, "killed", launcher="", devices=2, max_steps=20_000, **saves)
    house.poll(f"trains/{run['id']}/checkpoints/", lambda kept: kept, SECONDS)
    for worker in house.processes("train_worker", "--cluster"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    row = house.poll(
        f"trains/{run['id']}/",
        lambda row: row["facts"].get("resumed_from") or row["status"] in ENDED,
        SECONDS,
    )
    assert (row["status"], row["attempt"]) == ("running", 2), log_of(house, run)
    assert row["facts"]["resumed_from"] >= 20
    assert len(row["facts"]["device"]["nodes"]) == 2
    assert "left by an earlier attempt" in log_of(house, run)
    house.api("POST", f"trains/{run['id']}/stop/", json={})
    assert house.ended(run, SECONDS)["status"] == "stopped", log_of(house, run)
