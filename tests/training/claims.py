"""Workers that claim trains, without processes and without a queue."""

import itertools
import socket
from typing import Any

from jobs.devices.locks import DeviceLocks
from jobs.devices.machines import Present
from jobs.devices.presence import Seat
from training.models import TrainRun
from training.work.claiming import train_claim

_numbers = itertools.count()


def claim(kind: str = "cpu", **values: Any) -> TrainRun | None:
    """What a worker takes that nobody has seen before, with a device of its own."""
    identity = f"{kind}-{next(_numbers)}"
    machine = Present(
        socket.gethostname(), "0", devices={identity: {"kind": kind, "identity": identity}}
    )
    locks = DeviceLocks()
    try:
        return train_claim(Seat(machine, identity, [machine]), locks, **values)
    finally:
        locks.close()


def machine_of(size: int, host: str = "", *, kind: str = "cpu") -> Present:
    """A machine with a worker for each device."""
    # Here all machines have the locks of one.
    names = [f"{host or kind}:{index}" for index in range(size)]
    host = host or socket.gethostname()
    devices = {
        name: {
            "kind": kind,
            "name": "CPU",
            "identity": name,
            "index": index,
            "label": f"{kind} {index}" if size > 1 else "",
            "threads": 2,
            "memory_gb": 4.0,
            "of": size,
            "visible": str(index) if kind == "cuda" and size > 1 else "",
        }
        for index, name in enumerate(names)
    }
    workers = {identity: f"{host}-worker-{identity}" for identity in devices}
    return Present(host, "0", size=size, devices=devices, workers=workers)


def presences_of(*machines: Present) -> list[dict[str, Any]]:
    """As jobs.devices.presence.workers_present has their workers."""
    return [
        {
            "name": machine.workers[identity],
            "host": machine.host,
            "slot": machine.slot,
            "process": "-",
            "device": device,
            "devices": machine.size,
        }
        for machine in machines
        for identity, device in machine.devices.items()
    ]
