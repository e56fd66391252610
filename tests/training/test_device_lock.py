"""One train a device: of two workers on one device the second waits until nothing of the first is
left."""

import os
import threading
from contextlib import contextmanager

import pytest
from django.core.management.base import CommandError

from core.processes import SUPERVISED
from jobs.devices.locks import DeviceLocks, WorkerLock, claiming
from training.management.commands import train_worker
from training.management.commands.train_worker import Command

CPU = {"kind": "cpu", "identity": "cpu"}


@contextmanager
def worker(device):
    """Whether it has the device at once."""
    lock = WorkerLock(device)
    try:
        yield lock.is_held
    finally:
        lock.close()


@pytest.fixture(autouse=True)
def home(settings, tmp_path):
    settings.HOME = tmp_path


def test_a_second_worker_waits_until_the_first_is_gone():
    first, second = WorkerLock(CPU), WorkerLock(CPU)
    assert (first.is_held, second.is_held) == (True, False)

    waiting = threading.Thread(target=second.wait)
    waiting.start()
    waiting.join(0.1)
    assert not second.is_held
    first.close()
    waiting.join(10)
    assert second.is_held
    second.close()


def test_other_devices_and_other_slots_are_free(settings):
    with worker(CPU) as one, worker({"identity": "GPU-1/../../x"}) as other:
        settings.WORKER_SLOT = "1"
        with worker(CPU) as third:
            assert (one, other, third) == (True, True, True)
    assert all(
        path.parent == settings.HOME / "locks"
        for path in settings.HOME.rglob("*")
        if path.is_file()
    )


def test_a_forked_engine_keeps_the_device_after_its_worker():
    reading, writing = os.pipe()
    with worker(CPU):
        if (pid := os.fork()) == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    with worker(CPU) as is_alone:
        assert not is_alone
    os.close(writing)
    os.waitpid(pid, 0)
    os.close(reading)
    with worker(CPU) as is_alone:
        assert is_alone


def test_workers_that_are_started_at_once_choose_different_devices():
    """None has warmed up yet when the others choose."""
    devices = [{"identity": f"cpu:{index}", "index": index} for index in range(2)]
    chosen = [Command().choose(devices, None) for _ in range(3)]
    found = [(device["index"], lock.is_held) for device, lock in chosen]
    assert found == [(0, True), (1, True), (0, False)]
    for _, lock in chosen:
        lock.close()


def test_a_worker_whose_device_is_gone_does_not_start_again_and_again(monkeypatch):
    waits = []
    monkeypatch.setattr(train_worker.time, "sleep", waits.append)
    devices = [{"identity": "cpu", "index": 0}]
    with pytest.raises(CommandError, match=r"no device 7\. It has: 0"):
        Command().choose(devices, 7)
    assert waits == []

    monkeypatch.setenv(SUPERVISED, "1")
    with pytest.raises(CommandError):
        Command().choose(devices, 7)
    assert waits == [train_worker.MISSING_SECONDS]


def test_devices_of_a_train_are_held_until_its_last_process_has_left():
    reading, writing = os.pipe()
    locks, others = DeviceLocks(), DeviceLocks()
    assert [locks.take(name) for name in ("a", "b", "b", "c")] == [True] * 4
    locks.keep({"a", "b"})
    assert [others.take(name) for name in ("a", "b", "c")] == [False, False, True]

    if (pid := os.fork()) == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    locks.close()
    assert not others.take("a")
    os.close(writing)
    os.waitpid(pid, 0)
    os.close(reading)
    assert [others.take(name) for name in ("a", "b")] == [True, True]
    others.close()


def test_workers_of_a_machine_decide_one_after_the_other():
    decided = threading.Event()

    def decide():
        with claiming():
            decided.set()

    with claiming():
        other = threading.Thread(target=decide)
        other.start()
        assert not decided.wait(0.1)
    assert decided.wait(10)
    other.join()
