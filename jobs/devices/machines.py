"""Machines and how many devices each has: what is there now, and what may come back.

A machine is a host, and the workers of one slot on it (DEEPEXTENSION_WORKER_SLOT). A Ray cluster is one
too, whose host is the cluster's name (jobs.devices.launchers); each of its workers may have any of its
devices."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from core.devices import Device
from jobs.devices.launchers import ANYWHERE, LOCAL, RAY, cluster_name, machine_words
from jobs.models import Machine

# A machine's row is written anew when it is as old as this.
NOTED_EVERY = timedelta(minutes=1)
FORGOTTEN_AFTER = timedelta(days=30)


@dataclass
class Present:
    """A machine with workers: {identity: device} of the devices that have one now. size: how many
    devices it has. workers: {identity: name of its worker}. coming: how many further devices had a
    worker a moment ago, which may be about to come back. lanes: of a cluster, the names of its
    workers, which share all devices."""

    host: str
    slot: str
    size: int = 1
    devices: dict[str, Device] = field(default_factory=dict)
    workers: dict[str, str] = field(default_factory=dict)
    coming: int = 0
    launcher: str = LOCAL
    lanes: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return machine_key(self.host, self.slot)

    @property
    def words(self) -> str:
        """What sentences call it."""
        return machine_words(self.host, self.launcher)

    @property
    def worker_names(self) -> set[str]:
        return {*self.workers.values(), *self.lanes}

    @property
    def is_cluster(self) -> bool:
        return self.launcher == RAY

    @property
    def kind(self) -> str:
        """ "cpu" or "cuda"."""
        device = next(iter(self.devices.values()), {})
        return str(device.get("kind", "cpu"))


def machine_key(host: str, slot: str) -> str:
    return f"{host} {slot}"


def key_of_device(device: Mapping[str, Any], host: str) -> str:
    """The key of the machine that a train's device belongs to. host: of the train's worker."""
    return machine_key(str(device.get("machine") or host), str(device.get("slot", "0")))


def machines_present(presences: Iterable[dict[str, Any]]) -> list[Present]:
    """The machines of these workers (jobs.devices.presence.workers_present), always in the same
    order."""
    machines: dict[str, Present] = {}
    clusters: dict[str, Present] = {}
    for presence in sorted(presences, key=lambda presence: str(presence["name"])):
        if "cluster" in presence:
            _add_lane(clusters, presence)
            continue

        host, slot = str(presence["host"]), str(presence.get("slot", "0"))
        machine = machines.setdefault(machine_key(host, slot), Present(host, slot))

        device = presence["device"]
        # Two workers of one device: the second waits for the first, or is of an earlier version.
        identity = str(device.get("identity", device.get("kind", "cpu")))
        machine.devices[identity] = device
        machine.workers[identity] = str(presence["name"])
        machine.size = max(int(presence.get("devices", 1)), machine.size)

    found = [part for key in sorted(machines) for part in _parts(machines[key])]
    found += [clusters[key] for key in sorted(clusters)]
    for machine in found:
        in_order = sorted(machine.devices.items(), key=lambda item: item[1].get("index", 0))
        machine.devices = dict(in_order)

    return found


def _add_lane(clusters: dict[str, Present], presence: Mapping[str, Any]) -> None:
    """A worker of a cluster: the nodes may have changed since another one looked."""
    name = str(presence["cluster"]["name"])
    machine = clusters.setdefault(name, Present(name, RAY, launcher=RAY))
    machine.lanes.append(str(presence["name"]))
    machine.devices |= {device["identity"]: device for device in presence["cluster"]["devices"]}
    machine.size = len(machine.devices)


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
    slot = settings.WORKER_SLOT
    _note(Present(socket.gethostname(), slot, len(devices), {"": devices[0]}))


def machines_note(present: Iterable[Present]) -> None:
    """These are there now; forget those that have long been away, and those whose devices have
    machines of their own now. Called every few seconds."""
    now = timezone.now()
    fresh = Machine.objects.filter(seen_at__gt=now - NOTED_EVERY)
    known = {row[:3]: row[3] for row in fresh.values_list("host", "slot", "kind", "devices")}

    present = list(present)
    keys = {(machine.host, machine.slot) for machine in present}
    parted = {(host, slot.split("/")[0]) for host, slot in keys if "/" in slot} - keys
    for host, slot in parted:
        Machine.objects.filter(host=host, slot=slot).delete()

    for machine in present:
        devices = known.get((machine.host, machine.slot, machine.kind), 0)
        is_noted = devices >= machine.size if machine.is_cluster else devices == machine.size
        if not is_noted:
            _note(machine)

    Machine.objects.filter(seen_at__lt=now - FORGOTTEN_AFTER).delete()


def _note(machine: Present) -> None:
    size = machine.size
    row = Machine.objects.filter(host=machine.host, slot=machine.slot, kind=machine.kind).first()
    if machine.is_cluster and row is not None:
        # Nodes come and go. A train that needs them all waits for them.
        size = max(size, row.devices)

    values = {
        "launcher": machine.launcher,
        "kind": machine.kind,
        "devices": size,
        "seen_at": timezone.now(),
    }
    Machine.objects.update_or_create(host=machine.host, slot=machine.slot, defaults=values)


def machines_known(
    kinds: Collection[str] = ("cpu", "cuda"), launcher: str = ANYWHERE
) -> QuerySet[Machine]:
    """The machines of these kinds, whether they are there now or away. A cluster that is not set any
    more is none of them."""
    machines = Machine.objects.filter(kind__in=kinds)
    if launcher:
        machines = machines.filter(launcher=launcher)

    return machines.exclude(~Q(host=cluster_name()), launcher=RAY)


def most_devices(kinds: Collection[str] = ("cpu", "cuda"), launcher: str = ANYWHERE) -> int:
    """How many devices the largest machine of these kinds has, whether it is there now or away; 0
    where none is known."""
    sizes = machines_known(kinds, launcher).values_list("devices", flat=True)
    return max(sizes, default=0)
