"""Who has which device of this machine, as locks of files in the home.

    HOST-DEVICE-SLOT             one worker a device and slot, for as long as it lives
    HOST-DEVICE-SLOT.train       one job a device and slot, from its claim to its end
    HOST-SLOT.claim              one claim at a time on a machine
    HOST-DEVICE-SLOT.sharing     see jobs.devices.sharing

Of a cluster's devices HOST is the cluster's name, and SLOT its own: workers on several machines may
have them.

A job of several devices holds the `.train` locks of all of them. Its engine inherits them, so that a
device is free only once the last process of the job has left it, and always then: the kernel gives a
lock back however its holder ended."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings

from jobs.devices.launchers import RAY

# The slot of every cluster's devices.
CLUSTER_SLOT = RAY


def lock_path(*parts: str, ending: str = "", host: str = "") -> Path:
    """host: of another machine than this one: a cluster."""
    folder = settings.HOME / "locks"
    folder.mkdir(exist_ok=True, mode=0o700)
    name = re.sub(r"[^\w.-]", "_", "-".join((host or socket.gethostname(), *parts)))

    return folder / f"{name}{ending}"


class WorkerLock:
    """By which a worker is the only one of its device, however many are started.

    Job process and engine inherit it, so that it is free only once the last of them has left the
    device."""

    def __init__(self, device: dict[str, Any]) -> None:
        path = lock_path(str(device["identity"]), settings.WORKER_SLOT)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.is_held = _taken(self.descriptor)

    def wait(self) -> None:
        """Until the other worker of this home is gone."""
        if not self.is_held:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            self.is_held = True

    def close(self) -> None:
        os.close(self.descriptor)


@contextmanager
def claiming(cluster: str = "") -> Iterator[None]:
    """Only one worker of this machine and slot, or of that cluster, at a time decides what starts
    there."""
    slot = CLUSTER_SLOT if cluster else settings.WORKER_SLOT
    with lock_path(slot, ending=".claim", host=cluster).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class DeviceLocks:
    """Devices that are held for a job: {identity: descriptor}. Whoever inherits a descriptor holds
    that device too. cluster: whose devices they are, "" for those of this machine."""

    def __init__(self, cluster: str = "") -> None:
        self.cluster = cluster
        self.held: dict[str, int] = {}

    def take(self, identity: str) -> bool:
        """Whether it is held now: it is not where another job has not left it."""
        if identity in self.held:
            return True

        slot = CLUSTER_SLOT if self.cluster else settings.WORKER_SLOT
        path = lock_path(identity, slot, ending=".train", host=self.cluster)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _taken(descriptor):
            os.close(descriptor)
            return False

        self.held[identity] = descriptor
        return True

    def keep(self, identities: set[str]) -> None:
        """Give back all others."""
        for identity in self.held.keys() - identities:
            os.close(self.held.pop(identity))

    def close(self) -> None:
        self.keep(set())


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False

    return True
