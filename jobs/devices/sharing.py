"""How trains and model servers share a device: the operator's rule, and a lock with two sides.

A model server holds the shared side for as long as its process lives. A train that is to have the
device for itself takes the exclusive side for its time. The kernel gives both back however a process
ends, so that nothing stays locked by what was killed.

Whether somebody was answered lately is a key in Redis that expires by itself."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from redis.exceptions import RedisError

from core.queue import connection
from jobs.devices.presence import workers_present
from jobs.models import DevicePolicy

Rule = DevicePolicy.Rule

ANSWERED = "deepextension:answered:"
SHARING = ".sharing"
# How long a train waits for model servers to leave. They are told at once, and a few seconds are
# enough; one that hangs must not hold up trains for ever.
LEAVE_SECONDS = 40
LOOK_SECONDS = 0.2

logger = logging.getLogger("deepextension.worker")


def device_policy() -> DevicePolicy:
    return DevicePolicy.objects.filter(pk=1).first() or DevicePolicy(pk=1)


def rule_on(policy: DevicePolicy, device_kind: str) -> str:
    """SHARE, TRAINS or CHAT. device_kind: "cpu" or "cuda"."""
    if policy.rule != Rule.AUTOMATIC:
        return policy.rule

    return Rule.SHARE if device_kind == "cpu" else Rule.TRAINS


# Answers first


def answered_announce(minutes: float) -> None:
    """Somebody on this host is being answered. Trains may wait for it from now on, for `minutes`.
    Raises RedisError."""
    connection().set(f"{ANSWERED}{socket.gethostname()}", "1", ex=max(1, round(minutes * 60)))


def answers_forget() -> None:
    """No model is loaded on this host any more. Raises RedisError."""
    connection().delete(f"{ANSWERED}{socket.gethostname()}")


def minutes_held(host: str = "") -> int:
    """The idle minutes that trains wait for now under "Answers first"; 0 where they do not wait.

    host: of the worker that would start one; "" for all that have workers, where trains wait only
    when each of them is busy answering."""
    policy = device_policy()
    if policy.rule != Rule.CHAT:
        return 0

    try:
        hosts = {host} if host else {presence["host"] for presence in workers_present()}
        keys = [f"{ANSWERED}{name}" for name in hosts or {socket.gethostname()}]
        is_held = all(connection().exists(key) for key in keys)
    except RedisError:
        return 0

    return policy.idle_minutes if is_held else 0


# The lock


def _path(identity: str, slot: str) -> Path:
    folder = settings.HOME / "locks"
    folder.mkdir(exist_ok=True, mode=0o700)
    name = re.sub(r"[^\w.-]", "_", "-".join((socket.gethostname(), identity, slot)))
    return folder / f"{name}{SHARING}"


def shared_sides(identity: str) -> list[int] | None:
    """Descriptors by which a process that inherits them holds the device's shared side until it
    ends; None while a train has the device for itself. The caller closes them.

    There is one lock for each worker slot, so that trains of two slots do not keep each other
    out."""
    own = _path(identity, settings.WORKER_SLOT)
    own.touch(mode=0o600)
    beginning = own.name.removesuffix(f"{settings.WORKER_SLOT}{SHARING}")
    taken: list[int] = []

    for path in sorted(own.parent.glob(f"{beginning}*{SHARING}")):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        taken.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            for other in taken:
                os.close(other)

            return None

    return taken


@contextmanager
def device_for_train(
    device_kind: str, identity: str, must_stop: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Have the device without model servers for as long as the rule says so. They leave within
    seconds; after LEAVE_SECONDS the train begins beside them all the same.

    must_stop: asked while it waits; True ends the wait."""
    if rule_on(device_policy(), device_kind) == Rule.SHARE:
        yield
        return

    descriptor = os.open(
        _path(identity, settings.WORKER_SLOT), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        if not _taken(descriptor, must_stop):
            logger.warning("model servers did not leave the device; the train begins beside them")

        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int, must_stop: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LEAVE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline or must_stop():
                return False

            time.sleep(LOOK_SECONDS)
        else:
            return True
