"""Machines and how many devices each has: what is there now, and what may come back.

A machine is a host, and the workers of one slot on it (DEEPEXTENSION_WORKER_SLOT)."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from core.devices import Device
from core.errors import UserError
from core.text import counted
from jobs.models import Machine

# A machine's row is written anew when it is as old as this.
NOTED_EVERY = timedelta(minutes=1)
FORGOTTEN_AFTER = timedelta(days=30)


@dataclass
class Present:
    """A machine with workers: {identity: device} of the devices that have one now. size: how many
    devices it has. workers: {identity: name of its worker}."""

    host: str
    slot: str
    size: int = 1
    devices: dict[str, Device] = field(default_factory=dict)
    workers: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return machine_key(self.host, self.slot)

    @property
    def kind(self) -> str:
        """ "cpu" or "cuda"."""
        device = next(iter(self.devices.values()), {})
        return str(device.get("kind", "cpu"))


def machine_key(host: str, slot: str) -> str:
    return f"{host} {slot}"


def machines_present(presences: Iterable[dict[str, Any]]) -> list[Present]:
    """The machines of these workers (jobs.devices.presence.workers_present), always in the same
    order."""
    machines: dict[str, Present] = {}
    for presence in sorted(presences, key=lambda presence: str(presence["name"])):
        host, slot = str(presence["host"]), str(presence.get("slot", "0"))
        machine = machines.setdefault(machine_key(host, slot), Present(host, slot))

        device = presence["device"]
        # Two workers of one device: the second waits for the first, or is of an earlier version.
        identity = str(device.get("identity", device.get("kind", "cpu")))
        machine.devices[identity] = device
        machine.workers[identity] = str(presence["name"])
        machine.size = max(int(presence.get("devices", 1)), machine.size)

    found = [part for key in sorted(machines) for part in _parts(machines[key])]
    for machine in found:
        in_order = sorted(machine.devices.items(), key=lambda item: item[1].get("index", 0))
        machine.devices = dict(in_order)

    return found


def _parts(machine: Present) -> list[Present]:
    """Workers that were each shown one device alone, and know nothing of the others, are as good as
    on machines of their own, however many of them are there now."""
    is_too_full = len(machine.devices) > machine.size
    alone = {
        identity: device
        for identity, device in machine.devices.items()
        if is_too_full or _was_shown_alone(device)
    }

    parts = [
        Present(
            machine.host,
            f"{machine.slot}/{identity}",
            devices={identity: device},
            workers={identity: machine.workers[identity]},
        )
        for identity, device in alone.items()
    ]
    if len(alone) == len(machine.devices):
        return parts

    machine.devices = {name: machine.devices[name] for name in machine.devices if name not in alone}
    machine.workers = {name: machine.workers[name] for name in machine.devices}
    return [machine, *parts]


def _was_shown_alone(device: Device) -> bool:
    """Whether CUDA_VISIBLE_DEVICES named this one alone when its worker was started."""
    return device.get("of") == 1 and bool(device.get("visible"))


# What is remembered


def machine_note(devices: list[Device]) -> None:
    """This machine has these devices: for a worker that begins."""
    _note(socket.gethostname(), settings.WORKER_SLOT, str(devices[0]["kind"]), len(devices))


def machines_note(present: Iterable[Present]) -> None:
    """These are there now; forget those that have long been away, and those whose devices have
    machines of their own now. Called every few seconds."""
    now = timezone.now()
    fresh = Machine.objects.filter(seen_at__gt=now - NOTED_EVERY)
    known = set(fresh.values_list("host", "slot", "kind", "devices"))

    present = list(present)
    keys = {(machine.host, machine.slot) for machine in present}
    parted = {(host, slot.split("/")[0]) for host, slot in keys if "/" in slot} - keys
    for host, slot in parted:
        Machine.objects.filter(host=host, slot=slot).delete()

    for machine in present:
        if (machine.host, machine.slot, machine.kind, machine.size) not in known:
            _note(machine.host, machine.slot, machine.kind, machine.size)

    Machine.objects.filter(seen_at__lt=now - FORGOTTEN_AFTER).delete()


def _note(host: str, slot: str, kind: str, devices: int) -> None:
    values = {"kind": kind, "devices": devices, "seen_at": timezone.now()}
    Machine.objects.update_or_create(host=host, slot=slot, defaults=values)


def most_devices(kinds: Collection[str] = ("cpu", "cuda")) -> int:
    """How many devices the largest machine of these kinds has, whether it is there now or away; 0
    where none is known."""
    sizes = Machine.objects.filter(kind__in=kinds).values_list("devices", flat=True)
    return max(sizes, default=0)


def devices_check(wanted: int, kinds: Collection[str]) -> None:
    """Whether a machine of these kinds has so many devices. Raises UserError. While no machine is
    known nothing is refused."""
    most = most_devices(kinds)
    if most and wanted > most:
        raise UserError(
            {
                "devices": [
                    f"{counted(wanted, 'device')} are asked for; the machines here have "
                    f"{most:,}{' at most' if Machine.objects.count() > 1 else ''}."
                ]
            }
        )
