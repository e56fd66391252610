"""One train a device: of two workers on one device the second waits until nothing of the first is
left."""

import os

import pytest

from jobs.devices.worker import device_alone

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
