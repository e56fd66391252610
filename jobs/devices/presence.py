"""Which workers of devices are there, and whether a train would start now.

A worker announces itself and its device by a key in Redis that expires by itself; a worker of a
cluster, what the cluster has (jobs.devices.cluster_watch)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from redis.exceptions import RedisError

from core.errors import UserError
from core.processes import process_is_alive
from core.queue import connection
from core.text import counted
from jobs.devices.launchers import ANYWHERE, RAY
from jobs.devices.machines import (
    Present,
    machines_known,
    machines_note,
    machines_present,
    most_devices,
)

logger = logging.getLogger("deepextension.worker")

KEY = "deepextension:worker:"
LAPSE_SECONDS = 60
# Of a cluster's workers: which of them are there, and why their cluster is not.
LANES = "deepextension:lane:"
STARTING = "deepextension:starting:"
STARTING_SECONDS = 180
# Devices that have a worker or had one lately: it may be restarting.
RECENT = "deepextension:device:"
RECENT_SECONDS = 300


@dataclass(frozen=True)
class Seat:
    """A worker's place: its device on its machine, among all `machines` that are there."""

    machine: Present
    identity: str
    machines: list[Present]


# What the worker of this process says of itself; its forks inherit it.
_own: dict[str, Any] = {}


def presence_remember(presence: dict[str, Any]) -> None:
    """For the worker of this process: a queue that is away or was emptied must not make it forget its
    own device."""
    _own.clear()
    _own.update(presence)


def seat_of(name: str) -> Seat | None:
    """Of the worker of that name, by what the queue knows, and by what it knows of itself. Where
    neither knows it, it is alone, on a CPU. None for a worker of a cluster of which nothing is
    there now."""
    try:
        present = workers_present()
    except RedisError:
        present = []

    if (
        _own.get("name") == name
        and "device" in _own
        and all(presence["name"] != name for presence in present)
    ):
        present = [*present, _own]

    machines = machines_with_coming(present)
    for machine in machines:
        for identity, worker in machine.workers.items():
            if worker == name:
                return Seat(machine, identity, machines)

        if name in machine.lanes:
            return Seat(machine, next(iter(machine.devices)), machines)

    return None if _own.get("launcher") == RAY else _seat_alone(name)


def _seat_alone(name: str) -> Seat:
    device = {"kind": "cpu", "identity": "cpu"}
    machine = Present(
        socket.gethostname(),
        settings.WORKER_SLOT,
        devices={"cpu": device},
        workers={"cpu": name},
    )
    return Seat(machine, "cpu", [machine])


@dataclass(frozen=True)
class WorkerState:
    """Whether something would run a train now; `message` says why not, in words for a page."""

    ready: bool
    device: dict[str, Any] | None
    message: str
    workers: int = 0
    machines: tuple[Present, ...] = ()
    starting: bool = False

    @property
    def device_kind(self) -> str:
        """ "cpu" or "cuda"; "cpu" where no worker can tell."""
        return str((self.device or {}).get("kind", "cpu"))

    def device_for(self, launcher: str) -> dict[str, Any] | None:
        """What a form should assume for trains of that launcher, "" for any."""
        if not launcher:
            return self.device

        devices = [
            device
            for machine in self.machines
            if machine.launcher == launcher
            for device in machine.devices.values()
        ]
        return best_device([{"device": device} for device in devices]) if devices else None

    def kind_for(self, launcher: str) -> str:
        return str((self.device_for(launcher) or self.device or {}).get("kind", "cpu"))


def start_announce(seconds: int = STARTING_SECONDS) -> None:
    """Announce that this worker is loading its libraries; pages show that instead of "no
    worker"."""
    try:
        connection().set(f"{STARTING}{socket.gethostname()}:{os.getpid()}", "1", ex=seconds)
    except RedisError:
        logger.debug("the queue is not there yet")


def start_is_over() -> None:
    try:
        connection().delete(f"{STARTING}{socket.gethostname()}:{os.getpid()}")
    except RedisError:
        logger.debug("the queue is not there, and forgets by itself")


def workers_present() -> list[dict[str, Any]]:
    """{name, host, slot, process, device, devices} of each training worker that is there; devices:
    how many its machine has. Of a cluster's also "cluster": {name, devices: all that it has}; host
    is then where the worker is, and device the first of the cluster's. Raises RedisError."""
    return _announced(KEY)


def machines_with_coming(presences: Iterable[dict[str, Any]]) -> list[Present]:
    """The machines of these workers, with the workers that are awaited there: a restart of several
    takes the one longer than the other."""
    machines = machines_present(presences)
    for machine in machines:
        missing = 0 if machine.is_cluster else machine.size - len(machine.devices)
        if missing > 0:
            recent = devices_recent(machine.host, machine.slot) - set(machine.devices)
            machine.coming = min(missing, len(recent))

    return machines


def device_remember(host: str, slot: str, identity: str) -> None:
    """Called with each heartbeat of the device's worker. Raises RedisError."""
    connection().set(f"{RECENT}{host}:{slot}:{identity}", "1", ex=RECENT_SECONDS)


def devices_recent(host: str, slot: str) -> set[str]:
    """The devices of a machine that have a worker or had one within RECENT_SECONDS."""
    beginning = f"{RECENT}{host}:{slot}:"
    try:
        keys = list(connection().scan_iter(f"{beginning}*", count=1000))
    except RedisError:
        return set()

    return {key.decode().removeprefix(beginning) for key in keys}


def lanes_present() -> list[dict[str, Any]]:
    """{name, host, process, cluster, away} of each worker of a cluster; away: why the cluster is not
    there, "" where it is. Raises RedisError."""
    return _announced(LANES)


def _announced(beginning: str) -> list[dict[str, Any]]:
    redis = connection()
    keys = list(redis.scan_iter(f"{beginning}*", count=1000))
    # A key may have expired since.
    presences = [json.loads(value) for value in redis.mget(keys) if value]
    return [presence for presence in presences if is_alive(presence)]


def devices_check(wanted: int, kinds: Collection[str], launcher: str = ANYWHERE) -> None:
    """Whether a machine of these kinds has so many devices. Raises UserError. While no machine is
    known nothing is refused."""
    most = most_devices(kinds, launcher)
    if most and wanted > most:
        # A node may have joined since machines were noted.
        with contextlib.suppress(RedisError):
            machines_note(machines_present(workers_present()))
            most = most_devices(kinds, launcher)

    if not most or wanted <= most:
        return

    if launcher == RAY:
        there = f"the Ray cluster had {most:,} at most"
    else:
        at_most = " at most" if machines_known(launcher=launcher).count() > 1 else ""
        there = f"the machines here have {most:,}{at_most}"

    message = f"{counted(wanted, 'device')} are asked for; {there}."
    raise UserError({"devices": [message]})


def worker_state() -> WorkerState:
    try:
        alive = workers_present()
    except RedisError:
        return WorkerState(
            False,
            None,
            "The queue cannot be reached. Trains are kept and start when it is back; ask your "
            "operator.",
        )

    if not alive and is_starting():
        return WorkerState(
            False,
            None,
            "The training worker is loading its libraries, which takes about a minute. Waiting "
            "trains start then.",
            starting=True,
        )

    if not alive:
        return WorkerState(
            False,
            None,
            "No training worker is running. Trains wait in the queue until one is; ask your "
            "operator.",
        )

    machines = tuple(machines_with_coming(alive))
    return WorkerState(True, best_device(alive), "", len(alive), machines)


def is_starting() -> bool:
    try:
        return next(connection().scan_iter(f"{STARTING}*", count=1000), None) is not None
    except RedisError:
        return False


def is_alive(presence: dict[str, Any]) -> bool:
    """By its process for a worker on this host; elsewhere, its key would have expired."""
    return presence["host"] != socket.gethostname() or process_is_alive(presence["process"])


def best_device(workers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What a form should assume: a GPU where there is one."""
    devices: list[dict[str, Any]] = [presence["device"] for presence in workers]
    for device in devices:
        if device.get("kind") != "cpu":
            return device

    return devices[0]
