"""How trains and model servers share a device: the operator's rule, and a lock with two sides.

A model server holds the shared side for as long as its process lives. A train that is to have the
device for itself takes the exclusive side for its time. The kernel gives both back however a process
ends, so that nothing stays locked by what was killed.

Model servers are never on a cluster's devices, which trains need not ask for.

Whether somebody was answered lately, and where models are loaded, are keys in Redis that expire by
themselves."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from django.conf import settings
from redis.exceptions import RedisError

from core.queue import connection
from jobs.devices.locks import lock_path
from jobs.devices.presence import workers_present
from jobs.models import DevicePolicy

Rule = DevicePolicy.Rule

ANSWERED = "deepextension:answered:"
LOADED = "deepextension:loaded:"
LOADED_SECONDS = 15
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


def answered_announce(minutes: float, identities: Collection[str]) -> None:
    """Somebody is being answered on these devices of this host; none: on all. Trains may wait for
    that from now on, for `minutes`. Raises RedisError."""
    key = f"{ANSWERED}{socket.gethostname()}"
    connection().set(key, json.dumps(sorted(identities)), ex=max(1, round(minutes * 60)))


def answers_forget() -> None:
    """No model is loaded on this host any more. Raises RedisError."""
    connection().delete(f"{ANSWERED}{socket.gethostname()}")


def devices_held(host: str, identities: Collection[str]) -> set[str]:
    """Those of the host's devices that trains wait for now under "Answers first"."""
    if device_policy().rule != Rule.CHAT:
        return set()

    try:
        answered = connection().get(f"{ANSWERED}{host}")
    except RedisError:
        return set()

    if not isinstance(answered, str | bytes):
        return set()

    named = json.loads(answered)
    # A gateway of an earlier version does not say which.
    return set(identities) & set(named if isinstance(named, list) and named else identities)


def minutes_held(host: str = "") -> int:
    """The idle minutes that trains wait for now under "Answers first"; 0 where they do not wait.

    host: of the worker that would start one; "" for all that have workers, where trains wait only
    when each of their devices is busy answering."""
    policy = device_policy()
    if policy.rule != Rule.CHAT:
        return 0

    devices: dict[str, set[str]] = {}
    try:
        for presence in workers_present():
            if "cluster" in presence:
                # Nobody is answered there, so it holds no train.
                devices[str(presence["cluster"]["name"])] = {""}
                continue

            identity = str(presence["device"].get("identity", ""))
            devices.setdefault(presence["host"], set()).add(identity)
    except RedisError:
        return 0

    if host or not devices:
        name = host or socket.gethostname()
        devices = {name: devices.get(name, {""})}

    is_held = all(devices_held(name, found) == found for name, found in devices.items())
    return policy.idle_minutes if is_held else 0


# For whoever watches a train


def loaded_announce(identities: Collection[str]) -> None:
    """Models are loaded on these devices of this host, for the next seconds. Raises RedisError."""
    key = f"{LOADED}{socket.gethostname()}"
    connection().set(key, json.dumps(sorted(identities)), ex=LOADED_SECONDS)


def loaded_on(host: str) -> set[str]:
    """The devices of that host on which models are loaded; none where that is not known."""
    try:
        found = connection().get(f"{LOADED}{host}")
    except RedisError:
        return set()

    return set(json.loads(found)) if isinstance(found, str | bytes) else set()


# The lock


def shared_sides(*identities: str) -> list[int] | None:
    """Descriptors by which a process that inherits them holds the shared side of these devices until
    it ends; None while a train has one of them for itself. The caller closes them."""
    taken: list[int] = []

    for path in [path for identity in identities for path in _sides(identity)]:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        taken.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            for other in taken:
                os.close(other)

            return None

    return taken


def has_models(identity: str) -> bool:
    """Whether a model server of this machine holds the device now."""
    for path in _sides(identity):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)

    return False


def _sides(identity: str) -> list[Path]:
    """One lock for each worker slot, so that trains of two slots do not keep each other out."""
    own = lock_path(identity, settings.WORKER_SLOT, ending=SHARING)
    own.touch(mode=0o600)
    beginning = own.name.removesuffix(f"{settings.WORKER_SLOT}{SHARING}")
    return sorted(own.parent.glob(f"{beginning}*{SHARING}"))


@contextmanager
def devices_for_train(
    device_kind: str, identities: Iterable[str], must_stop: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Have the devices without model servers for as long as the rule says so. They leave within
    seconds; after LEAVE_SECONDS the train begins beside them all the same.

    must_stop: asked while it waits; True ends the wait."""
    if rule_on(device_policy(), device_kind) == Rule.SHARE:
        yield
        return

    deadline = time.monotonic() + LEAVE_SECONDS
    with ExitStack() as held:
        for identity in identities:
            path = lock_path(identity, settings.WORKER_SLOT, ending=SHARING)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held.callback(os.close, descriptor)
            if not _taken(descriptor, deadline, must_stop):
                logger.warning("model servers did not leave %s; the train begins", identity)

        yield


def _taken(descriptor: int, deadline: float, must_stop: Callable[[], bool]) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline or must_stop():
                return False

            time.sleep(LOOK_SECONDS)
        else:
            return True
