"""What the gateway knows of the platform: the operator's rule, which trains run and wait, and what
has been archived or deleted. All of it is read from the database in threads."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import close_old_connections
from redis.exceptions import RedisError

from core.devices import Device
from core.errors import UserError
from exports.models import Export
from jobs.devices.machines import machines_present
from jobs.devices.presence import workers_present
from jobs.devices.sharing import (
    Rule,
    answered_announce,
    answers_forget,
    device_policy,
    loaded_announce,
    rule_on,
)
from models_app.models import BaseModel
from serving.targets import Target
from training.models import TrainRun
from training.work.claiming import placement_now
from training.work.queue import queue_state

# Trains in line that are looked at every second.
MOST_LOOKED_AT = 50

logger = logging.getLogger("deepextension.gateway")


@dataclass(frozen=True)
class Spot:
    """Where model servers may be. identities: of the devices whose locks they hold there. visible:
    the variable CUDA_VISIBLE_DEVICES of their processes, "" for that of the platform. train: the
    title of a train that has one of the devices, "" for none."""

    identities: tuple[str, ...] = ()
    visible: str = ""
    name: str = ""
    train: str = ""


@dataclass(frozen=True)
class Facts:
    """rule: SHARE, TRAINS or CHAT. spot: where models are loaded now, one of `spots`; without
    devices where no worker has told of any. waits: whether a train would start now if it had the
    devices there. takers: {identity of a device: the title of the train that has it}."""

    rule: str = Rule.SHARE
    idle_seconds: float = 600
    models_at_once: int = 3
    device_kind: str = "cpu"
    spot: Spot = Spot()
    spots: tuple[Spot, ...] = ()
    waits: bool = False
    takers: Mapping[str, str] = field(default_factory=dict)

    @property
    def train(self) -> str:
        return self.spot.train

    def after(self, before: Facts, *, is_loaded: bool = False) -> Facts:
        """Where models were `before` they stay, unless a train has taken that device for itself and
        another is free.

        is_loaded: whether models are there now. They stay although the worker of the device is away:
        it may only be starting anew."""
        stays = [spot for spot in self.spots if spot.identities == before.spot.identities]
        if not stays and is_loaded and before.spot.identities:
            taken = [self.takers[name] for name in before.spot.identities if name in self.takers]
            stays = [replace(before.spot, train=taken[0] if taken else "")]

        now = stays[0] if stays else self.spot
        free = [spot for spot in self.spots if not spot.train]
        if now.train and self.rule != Rule.SHARE and free:
            now = free[-1]

        return replace(self, spot=now)

    @property
    def refusal(self) -> str:
        """Why models must not be in memory now, or nothing."""
        if self.rule == Rule.SHARE:
            return ""
        if self.train:
            return "A train has the device of this platform. Models answer again when it has ended."
        if self.rule == Rule.TRAINS and self.waits:
            return (
                "A train is about to start, and trains go first on this platform. Models answer "
                "again when it has ended."
            )

        return ""


class FactsReader:
    """Reads the facts, and remembers the workers that were there: a queue that is away, and workers
    that start anew, take no device from models."""

    def __init__(self) -> None:
        self.everywhere: list[dict[str, Any]] = []
        self.here: list[dict[str, Any]] = []

    def __call__(self) -> Facts:
        """Raises a database error where it is away."""
        close_old_connections()
        with suppress(RedisError):
            self.everywhere = workers_present()

        host = socket.gethostname()
        here = [
            presence
            for presence in self.everywhere
            # Model servers are never on a cluster's devices.
            if presence["host"] == host and "cluster" not in presence
        ]
        self.here = here or self.here
        return _facts(self.here, self.everywhere)


def _facts(here: list[dict[str, Any]], everywhere: list[dict[str, Any]]) -> Facts:
    """The workers of this machine, and of all machines."""
    policy = device_policy()
    active = TrainRun.objects.active().filter(host=socket.gethostname()).order_by("pk")
    running = [run for run in active if not run.cluster]
    spots = _spots(here, running)
    kind = "cpu" if all(_kind(presence) == "cpu" for presence in here) else "cuda"
    rule = rule_on(policy, kind)

    return Facts(
        rule=rule,
        idle_seconds=policy.idle_minutes * 60,
        models_at_once=policy.models_at_once,
        device_kind=kind,
        # The last: trains begin with the first where no model is loaded.
        spot=spots[-1],
        spots=spots,
        waits=rule == Rule.TRAINS and _train_waits(everywhere, spots),
        takers=_takers(running),
    )


def _kind(presence: dict[str, Any]) -> str:
    return str(presence["device"].get("kind", "cpu"))


def _takers(running: list[TrainRun]) -> dict[str, str]:
    return {str(device.get("identity", "")): str(run) for run in running for device in run.devices}


def _spots(presences: list[dict[str, Any]], running: list[TrainRun]) -> tuple[Spot, ...]:
    """Each GPU of this machine; or all its processors together, which models share with whatever
    runs there."""
    devices: dict[str, Device] = {}
    for presence in sorted(presences, key=lambda presence: presence["device"].get("index", 0)):
        device = presence["device"]
        devices.setdefault(str(device.get("identity", "")), device)

    gpus = {name: device for name, device in devices.items() if device.get("kind") != "cpu"}
    if not gpus:
        name = next((str(device.get("name", "")) for device in devices.values()), "")
        train = str(running[0]) if running else ""
        return (Spot(tuple(name for name in devices if name), "", name, train),)

    takers = _takers(running)
    # A worker of an earlier version does not say which device its train has.
    unsaid = next((str(run) for run in running if not run.devices), "")
    return tuple(
        Spot(
            tuple(name for name in (identity,) if name),
            str(device.get("visible", "")),
            _spot_name(device),
            takers.get(identity, unsaid),
        )
        for identity, device in gpus.items()
    )


def _spot_name(device: Device) -> str:
    name, label = str(device.get("name", "")), str(device.get("label", ""))
    return f"{name} ({label})" if label else name


def _train_waits(everywhere: list[dict[str, Any]], spots: tuple[Spot, ...]) -> bool:
    """Whether trains would start on this machine now that need the models' device too."""
    free = sum(not spot.train for spot in spots)
    if not free or queue_state().paused:
        return False

    machines = machines_present(everywhere)
    here = {machine.key for machine in machines if machine.host == socket.gethostname()}
    placement = placement_now(machines, most=MOST_LOOKED_AT)
    return sum(run.width for run, key in placement.starts if key in here) >= free


def answers_tell(facts: Facts, is_asked: bool, is_loaded: bool) -> None:
    """Have trains wait while a model is loaded that was asked lately, where answers go first; and say
    on which devices models are loaded."""
    with suppress(RedisError):
        if is_asked and facts.rule == Rule.CHAT:
            answered_announce(facts.idle_seconds / 60, facts.spot.identities)
        elif not is_asked:
            answers_forget()

        if is_loaded:
            loaded_announce(facts.spot.identities)


def keys_gone(keys: Iterable[str]) -> dict[str, str]:
    """{key of a target: why it can no longer be asked} of those among `keys`."""
    close_old_connections()
    targets = []
    for key in keys:
        with suppress(UserError):
            targets.append(Target.parse(key))

    gone = {}
    for kind, kept in (("model", _models_kept), ("train", _trains_kept), ("export", _exports_kept)):
        asked = {target.pk for target in targets if target.kind == kind}
        there = kept(asked) if asked else set()
        for target in targets:
            if target.kind == kind and target.pk not in there:
                gone[target.key] = f"This {kind} was archived or deleted."

    return gone


def _models_kept(pks: set[int]) -> set[int]:
    return set(BaseModel.objects.offered().filter(pk__in=pks).values_list("pk", flat=True))


def _trains_kept(pks: set[int]) -> set[int]:
    return set(TrainRun.objects.filter(pk__in=pks).values_list("pk", flat=True))


def _exports_kept(pks: set[int]) -> set[int]:
    exports = Export.objects.filter(pk__in=pks, model__archived_at=None)
    return set(exports.values_list("pk", flat=True))
