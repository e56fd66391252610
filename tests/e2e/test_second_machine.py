"""A worker on another machine: the same code with the same settings and folder, under another host name."""

import subprocess
import sys

import psutil
import pytest

from tests.e2e.test_faults import LONG, train_steps
from tests.e2e.test_main_job import toy_rows
from tests.live import ROOT, Platform

NAME = "second-machine"
# Neither train may end before the other has begun, however slow a machine is at that.
STEPS = 1000
JOIN = f'hostname {NAME} && exec "$0" manage.py train_worker'


@pytest.fixture
def second_machine(platform: Platform):
    """Its worker, in a namespace whose host has a name of its own."""
    asked = subprocess.run(["unshare", "--uts", "hostname", NAME], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip(f"no host name of its own can be had here: {asked.stderr.strip()}")
    with (platform.home / "logs" / f"{NAME}.log").open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--uts", "sh", "-c", JOIN, sys.executable],
            cwd=ROOT, env=platform.env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    worker = psutil.Process(process.pid)
    yield worker
    unplug(worker)
    process.wait()


def unplug(worker: psutil.Process) -> None:
    """Nobody there is left to say anything."""
    for process in [*worker.children(recursive=True), worker]:
        process.kill()


def test_a_train_whose_machine_vanishes_goes_on_elsewhere(platform, second_machine):
    dataset = platform.upload("machines.jsonl", toy_rows(20))
    platform.poll("queue/", lambda queue: queue["workers"] == 2)
    trains = [platform.start(dataset, **LONG | {"max_steps": STEPS}) for _ in range(2)]
    rows = {row["host"]: row for row in (platform.training(run, step=21) for run in trains)}
    assert len(rows) == 2
    lost = rows.pop(NAME)
    (other,) = rows.values()
    unplug(second_machine)

    # Makes room for the lost one.
    assert platform.api("POST", f"trains/{other['id']}/stop/").status_code == 200
    assert platform.ended(other)["attempt"] == 1
    ended = platform.ended(lost)
    assert (ended["status"], ended["step"], ended["attempt"]) == ("finished", STEPS, 2)
    assert ended["host"] == other["host"]
    assert train_steps(platform, lost) == list(range(1, STEPS + 1))
