"""What the gateway knows of the platform: the operator's rule, which trains run and wait, and what
has been archived or deleted. All of it is read from the database in threads."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from django.db import close_old_connections
from redis.exceptions import RedisError

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
class Facts:
    """rule: SHARE, TRAINS or CHAT. identity: of the device, by which workers lock it; "" where no
    worker has told. train: the title of one that runs here, "" for none. waits: whether a train
    would start now if the device were free."""

    rule: str = Rule.SHARE
    idle_seconds: float = 600
    models_at_once: int = 3
    device_kind: str = "cpu"
    device_name: str = ""
    identity: str = ""
    train: str = ""
    waits: bool = False

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
    devices = []
    with suppress(RedisError):
        devices = [presence["device"] for presence in workers_present() if presence["host"] == here]

    # A GPU where there is one.
    devices.sort(key=lambda device: device.get("kind") == "cpu")
    device = devices[0] if devices else {}
    kind = str(device.get("kind", "cpu"))
    train = TrainRun.objects.active().filter(host=here).order_by("pk").first()
    rule = rule_on(policy, kind)

    return Facts(
        rule=rule,
        idle_seconds=policy.idle_minutes * 60,
        models_at_once=policy.models_at_once,
        device_kind=kind,
        device_name=str(device.get("name", "")),
        identity=str(device.get("identity", "")),
        train=str(train) if train is not None else "",
        waits=rule == Rule.TRAINS and bool(devices) and _train_waits(kind),
    )


def _train_waits(kind: str) -> bool:
    if queue_state().paused:
        return False

    return any(runs_on(run, kind) for run in ready().select_related("method")[:20])


def answers_tell(facts: Facts, is_loaded: bool) -> None:
    """Have trains wait while a model is loaded that was asked lately, where answers go first."""
    with suppress(RedisError):
        if is_loaded and facts.rule == Rule.CHAT:
            answered_announce(facts.idle_seconds / 60)
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
