"""One train a device: of two workers on one device the second waits until nothing of the first is
left."""

import os
import threading

import pytest

from jobs.devices.locks import DeviceLocks, claiming, device_alone, device_has_worker

CPU = {"kind": "cpu", "identity": "cpu"}


class Waits(Exception):
    pass


def waits() -> None:
    raise Waits


@pytest.fixture(autouse=True)
def home(settings, tmp_path):
    settings.HOME = tmp_path


def test_a_second_worker_waits_until_the_first_is_gone():
    with device_alone(CPU, waits), pytest.raises(Waits), device_alone(CPU, waits):
        pass
    with device_alone(CPU, waits):
        pass


def test_other_devices_and_other_slots_are_free(settings):
    with device_alone(CPU, waits), device_alone({"identity": "GPU-1/../../x"}, waits):
        settings.WORKER_SLOT = "1"
        with device_alone(CPU, waits):
            pass
    assert all(
        path.parent == settings.HOME / "locks"
        for path in settings.HOME.rglob("*")
        if path.is_file()
    )


def test_a_forked_engine_keeps_the_device_after_its_worker():
    reading, writing = os.pipe()
    with device_alone(CPU, waits):
        if (pid := os.fork()) == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    with pytest.raises(Waits), device_alone(CPU, waits):
        pass
    os.close(writing)
    os.waitpid(pid, 0)
    os.close(reading)
    with device_alone(CPU, waits):
        pass


def test_a_device_without_a_worker_is_found():
    assert not device_has_worker(CPU)
    with device_alone(CPU, waits):
        assert device_has_worker(CPU)
    assert not device_has_worker(CPU)


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
