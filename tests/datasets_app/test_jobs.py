"""The limits under which a file is read."""

import signal
import subprocess
import sys

import pytest

from datasets_app import jobs
from datasets_app.check_queue import CHECK_START_SECONDS
from tests.live import ROOT

LIMITED = "from datasets_app.jobs import limit_process; limit_process(seconds=1)\n"


def run(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED + source],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


def test_memory_beyond_the_limit_is_an_error_and_not_the_end_of_the_machine():
    # What is allowed is only mapped and never written to: the machine that tests may have less to
    # give.
    done = run(
        "import mmap\ntry:\n    bytearray(3 << 30)\nexcept MemoryError:\n    print('refused')\n"
        "print(len(mmap.mmap(-1, 1 << 30)))"
    )

    assert done.stdout.split() == ["refused", str(1 << 30)], done.stderr


def test_a_check_that_computes_for_ever_is_ended():
    assert run("while True: pass").returncode == -signal.SIGXCPU


def test_a_job_for_a_dataset_that_is_gone_does_nothing(db, monkeypatch):
    monkeypatch.setattr(jobs, "limit_process", lambda **limits: pytest.fail("limited without need"))
    jobs.check_dataset(12345)


def test_a_job_checks_under_limits_that_grow_with_the_file(upload, monkeypatch):
    limits = []
    monkeypatch.setattr(jobs, "limit_process", lambda **found: limits.append(found))
    dataset = upload()
    jobs.check_dataset(dataset.pk)

    dataset.refresh_from_db()
    assert dataset.status == "ready"
    assert limits == [{"seconds": CHECK_START_SECONDS}]
