"""The devices of this machine that trains run on: its GPUs, or its processors, which
DEEPEXTENSION_CPU_DEVICES may divide.

A device, here and wherever the platform speaks of one, is what engine.run.hardware.Device says of it,
and

    identity   by which it is locked: a GPU's UUID, "cpu", or "cpu:0", "cpu:1" of divided processors
    index      its place among the devices of its machine
    label      what people call it: "GPU 1", "cpu 0"; "" for the only one
    of         how many devices its machine has, those without a worker too
    visible    its name in the variable CUDA_VISIBLE_DEVICES of a program on this machine, "" where
               a program without that variable finds it alone
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from core.processes import clean_environment, confined

Device = dict[str, Any]

# What the drivers of GPUs make, those within virtual machines of Windows too.
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices_measure() -> list[Device]:
    """Each device of this machine that is to have a worker, in a fixed order, at least one. Measured
    by a program of its own, which takes some seconds: this process must not wake a GPU."""
    result = subprocess.run(
        [sys.executable, "-m", "engine.run.hardware"],
        capture_output=True,
        text=True,
        check=True,
        cwd=settings.BASE_DIR,
        env=clean_environment(),
        preexec_fn=confined(),
    )

    found: list[Device] = json.loads(result.stdout.strip().splitlines()[-1])
    if found[0]["kind"] == "cpu":
        found = _processors_divided(found[0], settings.CPU_DEVICES)

    is_alone = len(found) == 1
    visible = _names_visible(found)
    for index, device in enumerate(found):
        word = "cpu" if device["kind"] == "cpu" else "GPU"
        device |= {
            "index": index,
            "label": "" if is_alone else f"{word} {index}",
            "of": len(found),
            "visible": visible[index],
        }

    return found[: settings.TRAIN_WORKERS or None]


def _processors_divided(whole: Device, count: int) -> list[Device]:
    """The machine's processors and memory as `count` devices."""
    if count == 1:
        return [whole]

    share = {
        "memory_gb": round(whole["memory_gb"] / count, 1),
        "threads": max(1, whole["threads"] // count),
    }
    return [whole | share | {"identity": f"cpu:{index}"} for index in range(count)]


def _names_visible(found: Sequence[Device]) -> list[str]:
    if found[0]["kind"] == "cpu":
        return [""] * len(found)

    # Those that the platform itself may see, by whatever names it was given them.
    given = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    if len(given) >= len(found):
        return given[: len(found)]

    return [str(index) for index in range(len(found))] if len(found) > 1 else [""]


def worker_count() -> int:
    """How many training workers this machine is to have: one for each device, or for the first
    DEEPEXTENSION_TRAIN_WORKERS of them."""
    if any(Path(driver).exists() for driver in DRIVERS):
        return len(devices_measure())

    # Without a driver there is no GPU, and nothing need be measured.
    count = int(settings.CPU_DEVICES)
    return min(count, settings.TRAIN_WORKERS or count)


def devices_environment(chosen: Sequence[Device]) -> dict[str, str]:
    """The variables by which a program finds these devices of its machine, and no others; none where
    the machine has only one."""
    if chosen[0]["kind"] == "cpu":
        # Of each rank.
        is_divided = chosen[0].get("of", 1) > 1
        return {"OMP_NUM_THREADS": str(chosen[0]["threads"])} if is_divided else {}

    names = [str(device.get("visible", "")) for device in chosen]
    return {VISIBLE: ",".join(names)} if all(names) else {}
