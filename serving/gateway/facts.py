"""What the gateway knows of the platform: the operator's rule, which trains run and wait, and what
has been archived or deleted. All of it is read from the database in threads."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from django.db import close_old_connections
from redis.exceptions import RedisError

from core.devices import VISIBLE, Device, devices_environment
from core.errors import UserError
from exports.models import Export
from jobs.devices.presence import workers_present
from jobs.devices.sharing import Rule, answered_announce, answers_forget, device_policy, rule_on
from models_app.models import BaseModel
from serving.targets import Target
from training.models import TrainRun
from training.work.queue import queue_state, ready, runs_on

logger = logging.getLogger("deepextension.gateway")


@dataclass(frozen=True)
class Spot:
    """Where model servers may be. identities: of the devices whose locks they hold there. visible:
    the variable CUDA_VISIBLE_DEVICES of their processes, "" for all. train: the title of a train
    that has one of the devices, "" for none."""

    identities: tuple[str, ...] = ()
    visible: str = ""
    name: str = ""
    train: str = ""


@dataclass(frozen=True)
class Facts:
    """rule: SHARE, TRAINS or CHAT. spot: where models are loaded now, one of `spots`; without
    devices where no worker has told of any. waits: whether a train would start now if it had the
    devices there."""

    rule: str = Rule.SHARE
    idle_seconds: float = 600
    models_at_once: int = 3
    device_kind: str = "cpu"
    spot: Spot = Spot()
    spots: tuple[Spot, ...] = ()
    waits: bool = False

    @property
    def train(self) -> str:
        return self.spot.train

    def after(self, before: Facts) -> Facts:
        """Where models were `before` they stay, unless a train has taken that device for itself and
        another is free."""
        stays = [spot for spot in self.spots if spot.identities == before.spot.identities]
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


def facts_read() -> Facts:
    """Raises a database error where it is away."""
    close_old_connections()
    policy = device_policy()
    here = socket.gethostname()
    presences = []
    with suppress(RedisError):
        presences = [presence for presence in workers_present() if presence["host"] == here]

    running = list(TrainRun.objects.active().filter(host=here).order_by("pk"))
    spots = _spots(presences, running)
    kind = "cpu" if all(_kind(presence) == "cpu" for presence in presences) else "cuda"
    rule = rule_on(policy, kind)

    return Facts(
        rule=rule,
        idle_seconds=policy.idle_minutes * 60,
        models_at_once=policy.models_at_once,
        device_kind=kind,
        # The last: trains by themselves begin with the first.
        spot=spots[-1],
        spots=spots,
        waits=rule == Rule.TRAINS and bool(presences) and _train_waits(kind, spots),
    )


def _kind(presence: dict[str, Any]) -> str:
    return str(presence["device"].get("kind", "cpu"))


def _spots(presences: list[dict[str, Any]], running: list[TrainRun]) -> tuple[Spot, ...]:
    """Each GPU of this machine; or all its processors together, which models share with whatever
    runs there."""
    devices: dict[str, Device] = {}
    for presence in sorted(presences, key=lambda presence: presence["device"].get("index", 0)):
        device = presence["device"]
        devices.setdefault(str(device.get("identity", "")), device)

    gpus = {name: device for name, device in devices.items() if device.get("kind") != "cpu"}
    if len(gpus) < 2:
        chosen = gpus or devices
        name = next((str(device.get("name", "")) for device in chosen.values()), "")
        train = str(running[0]) if running else ""
        return (Spot(tuple(name for name in chosen if name), "", name, train),)

    takers = {device["identity"]: str(run) for run in running for device in run.devices}
    of = len(gpus)
    return tuple(
        Spot(
            (identity,),
            devices_environment([device], of)[VISIBLE],
            f"{device.get('name', '')} ({device.get('label', '')})",
            takers.get(identity, ""),
        )
        for identity, device in gpus.items()
    )


def _train_waits(kind: str, spots: tuple[Spot, ...]) -> bool:
    """Whether trains wait that need the models' device too."""
    if queue_state().paused:
        return False

    trains = ready().select_related("method")[:20]
    needed = sum(run.width for run in trains if runs_on(run, kind))
    others = sum(not spot.train for spot in spots) - 1
    return needed > max(0, others)


def answers_tell(facts: Facts, is_loaded: bool) -> None:
    """Have trains wait while a model is loaded that was asked lately, where answers go first."""
    with suppress(RedisError):
        if is_loaded and facts.rule == Rule.CHAT:
            answered_announce(facts.idle_seconds / 60, facts.spot.identities)
        elif not is_loaded:
            answers_forget()


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
