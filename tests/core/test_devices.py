"""The devices of a machine: its GPUs, or its processors divided."""

import json
from subprocess import CalledProcessError
from types import SimpleNamespace

import pytest

from core import devices
from core.devices import devices_environment, devices_measure, worker_count
from core.serving import _worker_count

CPU = {
    "kind": "cpu",
    "name": "EPYC",
    "memory_gb": 16.0,
    "threads": 6,
    "bf16": False,
    "identity": "cpu",
}
GPUS = [
    {"kind": "cuda", "name": "L4", "memory_gb": 24.0, "threads": 6, "bf16": True, "identity": name}
    for name in ("uuid-a", "uuid-b", "uuid-c")
]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Have engine.run.hardware find these."""

    def have(found):
        driver = tmp_path / "driver"
        if found[0]["kind"] == "cuda":
            driver.touch()
        monkeypatch.setattr(devices, "DRIVERS", (str(driver),))
        answer = SimpleNamespace(stdout=f"a warning\n{json.dumps(found)}\n")
        monkeypatch.setattr(devices.subprocess, "run", lambda *args, **options: answer)

    return have


def test_the_only_device_has_no_name_of_its_own(machine):
    machine([CPU])
    found = devices_measure()
    assert found == [CPU | {"index": 0, "label": "", "of": 1, "visible": ""}]
    assert worker_count() == 1
    assert devices_environment(found) == {}


def test_the_only_gpu_is_found_without_a_name(machine, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine(GPUS[:1])
    assert devices_environment(devices_measure()) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert devices_environment(devices_measure()) == {"CUDA_VISIBLE_DEVICES": "5"}


def test_processors_are_divided(machine, settings):
    settings.CPU_DEVICES = 4
    machine([CPU])
    found = devices_measure()
    assert [device["identity"] for device in found] == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]
    assert [device["label"] for device in found] == ["cpu 0", "cpu 1", "cpu 2", "cpu 3"]
    assert {(device["threads"], device["memory_gb"]) for device in found} == {(1, 4.0)}
    assert worker_count() == 4
    assert devices_environment(found[1:3]) == {"OMP_NUM_THREADS": "1"}


def test_gpus_are_named_as_the_platform_may_see_them(machine, settings, monkeypatch):
    settings.CPU_DEVICES = 8
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine(GPUS)
    found = devices_measure()
    assert [(device["label"], device["identity"]) for device in found] == [
        ("GPU 0", "uuid-a"),
        ("GPU 1", "uuid-b"),
        ("GPU 2", "uuid-c"),
    ]
    assert worker_count() == 3

    assert devices_environment([found[0], found[2]]) == {"CUDA_VISIBLE_DEVICES": "0,2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,MIG-x,7")
    found = devices_measure()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices_environment([found[0], found[2]]) == {"CUDA_VISIBLE_DEVICES": "4,7"}


@pytest.mark.parametrize(("found", "asked", "count"), [(GPUS, 2, 2), (GPUS, 9, 3), ([CPU], 3, 1)])
def test_the_operator_has_fewer_workers(machine, settings, found, asked, count):
    settings.TRAIN_WORKERS = asked
    machine(found)
    assert worker_count() == len(devices_measure()) == count


def test_a_train_of_a_machine_with_fewer_workers_sees_its_own_gpu_alone(
    machine, settings, monkeypatch
):
    """Seeing all it would spread over those that are to be left alone."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings.TRAIN_WORKERS = 1
    machine(GPUS)
    assert devices_environment(devices_measure()) == {"CUDA_VISIBLE_DEVICES": "0"}


def test_devices_that_cannot_be_measured_do_not_keep_everything_else_from_starting(
    machine, monkeypatch
):
    machine(GPUS)

    def fail(*args, **options):
        raise CalledProcessError(1, "hardware", stderr="no driver")

    monkeypatch.setattr(devices.subprocess, "run", fail)
    said: list[str] = []
    assert _worker_count(said.append) == 1
    assert "cannot be measured" in said[0]
