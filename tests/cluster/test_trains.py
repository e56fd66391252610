"""Trains on a Ray cluster of two nodes: they learn what one machine learns, and survive what a cluster
does to them."""

import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.contract.rundir import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_STOPPED,
    checkpoint_is_whole,
    checkpoints,
    read_spec,
    stop_request,
    write_spec,
)
from tests.cluster.clients import (
    LONG,
    client,
    finish,
    is_over,
    jobs,
    log_of,
    until,
    until_event,
    workers,
)
from tests.engine.runs import Run, prepare, toy_rows
from tests.storage.servers import Proxy

pytestmark = pytest.mark.long

TOLERANCE = 1e-4
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def directory_of(folder: Path, tiny: Path, **given: Any) -> Path:
    given = {"logging_steps": 1, "devices": 2, "batch_size": 2} | given
    # Whole steps: two ranks would fill the last one of an epoch up.
    return prepare(folder, tiny, toy_rows(24), **given)


def events_are_in_order(done: Run) -> None:
    numbers = [event["seq"] for event in done.events]
    assert numbers == list(range(1, len(numbers) + 1))
    kinds = Counter(event["type"] for event in done.events)
    assert sum(kinds[kind] for kind in ("finished", "stopped", "failed")) == 1
    assert done.last["type"] in ("finished", "stopped", "failed")


@LONG
def test_a_killed_node_costs_at_most_one_checkpoint(cluster, tiny, warm, tmp_path):
    """The node that stays goes on alone, with as many rows a step, and learns the same."""
    steps = {"max_steps": 60, "save_strategy": "steps", "save_every": 5, "save_total_limit": 3}
    # Slow enough that it still trains when the node is gone; and few steps, since each rounds.
    steps |= {"gradient_accumulation_steps": 3}
    local = directory_of(tmp_path / "one", tiny, devices=1, batch_size=4, **steps)
    one = warm.run("engine.run.main", str(local), env=dict(os.environ) | ENVIRONMENT)
    assert one.returncode == 0, one.stdout
    directory = directory_of(tmp_path / "two", tiny, **steps)
    running = client(cluster, directory, DEEPEXTENSION_RAY_RETURN_SECONDS="0.1")
    until_event(directory, "checkpoint")
    cluster.node_kill(-1)
    done = finish(running, directory)

    assert done.code == EXIT_FINISHED, log_of(directory)
    events_are_in_order(done)
    first, second = done.of("started")
    assert len(first["device"]["nodes"]) == 2
    assert len(second["device"]["nodes"]) == 1
    assert (first["ranks"], "ranks" in second) == (2, False)
    reached = max(e["step"] for e in done.of("metrics") if e["seq"] < second["seq"])
    assert 0 <= reached - second["resumed_from"] <= 5
    (warning,) = (event for event in done.of("warning") if event["code"] == "node_lost")
    assert warning["message"].startswith("Node 127.0.0.")
    assert "on 1 of 2 devices" in warning["message"]

    # The second attempt's losses count.
    expected = Run(0, local).losses()
    assert done.losses().keys() == expected.keys()
    for step, loss in done.losses().items():
        assert loss == pytest.approx(expected[step], rel=TOLERANCE, abs=TOLERANCE), step
    assert (directory / "model" / "adapter_model.safetensors").exists()
    assert not list(directory.glob("rank-*.log"))
    assert is_over(cluster, directory)


@LONG
def test_the_next_attempt_ends_what_a_killed_client_left_and_stops_when_asked(
    cluster, tiny, tmp_path
):
    directory = directory_of(tmp_path / "run", tiny, max_steps=4000)
    killed = client(cluster, directory)
    until(lambda: jobs(cluster, directory), "no job")
    killed.kill()
    killed.wait()
    spec = read_spec(directory)
    write_spec(directory, replace(spec, attempt=2))
    with Proxy(int(cluster.address.rpartition(":")[2])) as line:
        running = client(cluster, directory, DEEPEXTENSION_RAY_ADDRESS=line.url)
        until_event(directory, "metrics")
        # The network between platform and cluster is cut for a while, and the train goes on.
        line.away()
        seen = line.seen
        until(lambda: line.seen > seen + 2, "nobody asks")
        line.away(False)
        stop_request(directory)
        done = finish(running, directory)

    assert done.code == EXIT_STOPPED, log_of(directory)
    assert "left by an earlier attempt" in log_of(directory)
    earlier, _ = jobs(cluster, directory)
    assert earlier["status"] == "STOPPED"
    events_are_in_order(done)
    ((step, folder),) = checkpoints(directory)
    assert step == done.last["step"] > 0
    assert checkpoint_is_whole(folder)
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in folder.iterdir()}


def test_a_job_ends_when_its_client_is_gone(cluster, tiny, tmp_path):
    """Before its ranks have begun."""
    directory = directory_of(tmp_path / "run", tiny, max_steps=100_000)
    running = client(cluster, directory, DEEPEXTENSION_RAY_LEASE_SECONDS="2.5")
    until(lambda: jobs(cluster, directory), "no job")
    running.kill()
    running.wait()
    until(lambda: is_over(cluster, directory), "the job goes on")
    until(lambda: not workers(), "workers train on")
    (job,) = jobs(cluster, directory)
    assert job["status"] == "FAILED"


@LONG
def test_a_train_ends_when_its_client_is_gone(cluster, tiny, tmp_path):
    """A train of one device, which is the one of a machine: nothing of it is distributed."""
    directory = directory_of(tmp_path / "run", tiny, devices=1, max_steps=100_000)
    running = client(cluster, directory, DEEPEXTENSION_RAY_LEASE_SECONDS="4")
    started = until_event(directory, "started")
    assert "ranks" not in started
    until_event(directory, "metrics")
    assert workers()
    running.kill()
    running.wait()
    until(lambda: is_over(cluster, directory), "the job goes on")
    until(lambda: not workers(), "workers train on")
    last = Run(0, directory).last["seq"]
    assert Run(0, directory).last["seq"] == last


@LONG
def test_a_stop_while_the_first_rank_prepares_ends_all(cluster, tiny, tmp_path):
    """The others wait for it, and do not see that it has left."""
    directory = directory_of(tmp_path / "run", tiny, max_steps=100_000)
    running = client(cluster, directory)
    until_event(directory, "phase")
    stop_request(directory)
    done = finish(running, directory)
    assert (done.code, done.last["type"]) == (EXIT_STOPPED, "stopped"), log_of(directory)
    until(lambda: is_over(cluster, directory), "the job goes on")
    until(lambda: not workers(), "workers train on")


def test_another_version_is_refused_with_both(cluster, tiny, tmp_path):
    """The client's machine has another trl."""
    folder = tmp_path / "packages" / "trl-9.9.9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 9.9.9\n")
    directory = directory_of(tmp_path / "run", tiny)
    root = str(Path(__file__).parents[2])
    done = finish(
        client(cluster, directory, PYTHONPATH=f"{folder.parent}{os.pathsep}{root}"), directory
    )
    assert done.code == EXIT_FAILED
    assert done.last["code"] == "other_version", log_of(directory)
    assert "has trl 1." in done.last["message"]
    assert "this platform has trl 9.9.9" in done.last["message"]


def test_a_cluster_that_is_away_is_told(tiny, tmp_path, monkeypatch):
    directory = directory_of(tmp_path / "run", tiny)
    script = (
        "import sys\nfrom pathlib import Path\nfrom engine.cluster import client\n"
        "client.ARRIVING_SECONDS = 0.1\nsys.exit(client.run(Path(sys.argv[1])))\n"
    )
    address = {"DEEPEXTENSION_RAY_ADDRESS": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)], env={**os.environ, **address}, check=False
    )
    assert done.returncode == EXIT_FAILED
    last = Run(1, directory).last
    assert last["code"] == "cluster_away"
    assert last["message"] == (
        "The Ray cluster at http://127.0.0.1:1 cannot be reached (connection refused)."
    )


def test_a_second_sigterm_ends_client_and_job_at_once(cluster, tiny, tmp_path):
    directory = directory_of(tmp_path / "run", tiny, max_steps=100_000)
    running = client(cluster, directory)
    until(lambda: jobs(cluster, directory), "no job")
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGTERM)
    code = running.wait(60)
    assert code in (-signal.SIGTERM, EXIT_STOPPED)
    until(lambda: is_over(cluster, directory), "the job goes on")
