"""Clients of a cluster, as the platform starts them, and what they leave there."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cluster.api import RayApi
from engine.cluster.jobs import ENDED, TRAIN
from engine.contract.rundir import LOG, all_events
from engine.programs.local_cluster import LocalCluster
from tests.engine.runs import Run

# Tests of many starts: each takes Ray and its workers some twenty seconds.
LONG = pytest.mark.skipif(os.environ.get("CLUSTER") != "all", reason="make cluster-tests")
# On a busy machine Ray alone may take most of it.
SECONDS = 240
STARTED: list[subprocess.Popen[bytes]] = []


def client(cluster: LocalCluster, directory: Path, **more: str) -> subprocess.Popen[bytes]:
    with (directory / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.cluster", str(directory)],
            env={**os.environ, **cluster.environment, **more},
            stdout=log,
            stderr=log,
        )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[bytes], directory: Path) -> Run:
    return Run(process.wait(SECONDS), directory)


def log_of(directory: Path) -> str:
    return (directory / LOG).read_text()


def until(done: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """What `done` returns, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def until_event(directory: Path, kind: str, after: int = 0) -> dict[str, Any]:
    """The first event of this kind after number `after`."""

    def found() -> dict[str, Any] | None:
        for event in all_events(directory):
            assert event["type"] != "failed", log_of(directory)
            if event["type"] == kind and event["seq"] > after:
                return event
        return None

    return until(found, f"no event {kind} in {directory}")


def jobs(cluster: LocalCluster, directory: Path) -> list[dict[str, Any]]:
    """The train's, oldest first."""
    found = RayApi(cluster.address, cluster.token).get("/api/jobs/")
    mine = [job for job in found if (job.get("metadata") or {}).get(TRAIN) == str(directory)]
    return sorted(mine, key=lambda job: job["start_time"])


def is_over(cluster: LocalCluster, directory: Path) -> bool:
    return all(job["status"] in ENDED for job in jobs(cluster, directory))


def workers() -> list[int]:
    """Processes that train on a cluster of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"RayTrainWorker" in title:
            found.append(int(path.parent.name))
    return found
