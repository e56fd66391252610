"""The devices that a train could run on: those of the workers that are there, and those that are expected back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.utils import timezone
from redis.exceptions import RedisError

from jobs.devices.launchers import ANYWHERE, LOCAL, RAY
from jobs.devices.machines import machine_key, machines_known, machines_present
from jobs.devices.presence import workers_present

# A machine that was there so lately is expected back.
BACK_WITHIN = timedelta(days=1)


def presences() -> list[dict[str, Any]]:
    """Of the training workers; none while the queue is away."""
    try:
        return workers_present()
    except RedisError:
        return []


def devices_present(
    present: Sequence[Mapping[str, Any]],
    kinds: Collection[str] = ("cpu", "cuda"),
    width: int = 1,
    launcher: str = ANYWHERE,
) -> list[dict[str, Any]]:
    """The kinds of devices that these workers have and that can run a train of `width` devices, each
    once, with "workers": how many have it. kinds: of "cpu" and "cuda", those that can run it at all."""
    # Workers of several slots on one host have its memory together.
    slots = Counter(presence.get("host") for presence in present if _has_all_processors(presence))
    found: dict[tuple[Any, ...], dict[str, Any]] = {}

    for presence in _one_a_device(present, launcher):
        device = dict(presence["device"])
        if device.get("kind") not in kinds or int(presence.get("devices", width)) < width:
            continue

        if presence.get("host") is not None and _has_all_processors(presence):
            memory = float(device.get("memory_gb") or 0)
            device["memory_gb"] = round(memory / slots[presence["host"]], 1)

        key = (device.get("kind"), device.get("name"), device.get("memory_gb"))
        kind = found.setdefault(key, {**device, "workers": 0})
        kind["workers"] += 1

    return list(found.values())


def _one_a_device(
    present: Iterable[Mapping[str, Any]], launcher: str
) -> Iterator[Mapping[str, Any]]:
    """As workers of one device each: those of a cluster share all that it has."""
    seen: set[tuple[str, str]] = set()
    for presence in present:
        cluster = presence.get("cluster")
        if launcher and launcher != (RAY if cluster else LOCAL):
            continue
        if not cluster:
            yield presence
            continue

        for device in cluster["devices"]:
            spot = cluster["name"], device["identity"]
            if spot not in seen:
                seen.add(spot)
                yield {"device": device, "devices": len(cluster["devices"])}


def _has_all_processors(presence: Mapping[str, Any]) -> bool:
    if "cluster" in presence:
        return False

    device = presence["device"]
    return bool(device.get("kind") == "cpu" and device.get("identity", "cpu") == "cpu")


def is_one_away(
    present: Iterable[dict[str, Any]],
    kinds: Collection[str],
    width: int,
    launcher: str = ANYWHERE,
) -> bool:
    """Whether a machine that could run such a train was here lately and is not now."""
    here: set[str] = set()
    for machine in machines_present(present):
        # A part of a machine, whose workers know nothing of one another, stands for all of it.
        slots = (machine.slot, machine.slot.partition("/")[0])
        here |= {machine_key(machine.host, slot) for slot in slots}

    lately = machines_known(kinds, launcher).filter(
        devices__gte=width, seen_at__gt=timezone.now() - BACK_WITHIN
    )
    return any(machine_key(machine.host, machine.slot) not in here for machine in lately)
