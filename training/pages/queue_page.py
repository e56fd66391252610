"""The queue as people see it: what runs where, who waits, and when each will start.

Others' trains are places without a name: everybody sees how long the line is, and nobody what
strangers train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone
from redis.exceptions import RedisError

from core.ownership import may_change
from core.text import counted
from jobs.devices.launchers import cluster_is_set, cluster_title
from jobs.devices.locks import CLUSTER_SLOT
from jobs.devices.machines import machine_key
from jobs.devices.presence import WorkerState, lanes_present, worker_state, workers_present
from jobs.durations import run_seconds
from training.models import TrainRun
from training.train.durations import run_progress
from training.train.estimate import Estimate, starts_now
from training.work.claiming import Spot, holders_of, spot_of
from training.work.queue import may_manage_queue, queue_state, waiting
from training.work.reasons import KEPT, Look, waiting_look

# Of a longer line: the first so many, and the reader's own.
MOST_PLACES = 100
MOST_OWN = 200


@dataclass(frozen=True)
class Place:
    """One place in line. `run` is None for a train that the reader may not see. reason: why it
    waits, see training.work.reasons."""

    position: int
    run: TrainRun | None
    priority: int
    starts: Estimate | None
    may_move: bool
    may_stop: bool
    is_own: bool
    waits_for: TrainRun | None = None
    reason: str = ""

    @property
    def waits_for_another(self) -> bool:
        """For a train that has not succeeded yet, whether the reader may see that one (`waits_for`)
        or not."""
        after = self.run.starts_after if self.run is not None else None
        return after is not None and after.status != TrainRun.Status.FINISHED

    @property
    def starts_at(self) -> datetime | None:
        if self.starts is None:
            return None

        return timezone.now() + timedelta(seconds=self.starts.seconds)

    @property
    def priority_label(self) -> str:
        return str(TrainRun.Priority(self.priority).label)


@dataclass(frozen=True)
class Station:
    """A training worker, or the place of a train whose worker does not answer. `is_busy` without
    `run`: with a train that the reader may not see. is_lent: its device is one of those of a train
    of several that is shown in full at the first of them. kept_for: while it is free and kept for a train of
    several devices, of how many. note: why its cluster is not there.

    Of a cluster each worker is a station, which may have any of its devices."""

    worker: str
    host: str
    device: dict[str, Any]
    is_here: bool
    is_busy: bool
    run: TrainRun | None
    may_change: bool
    is_lent: bool = False
    kept_for: int = 0
    note: str = ""

    @property
    def progress(self) -> float | None:
        return run_progress(self.run) if self.run is not None else None

    @property
    def seconds(self) -> float | None:
        return run_seconds(self.run) if self.run is not None else None


def queue_page(reader: User) -> dict[str, Any]:
    """What the page and the API show to this reader."""
    state = worker_state()
    look = waiting_look(state)
    runs = list(TrainRun.objects.active().with_related().order_by("started_at", "pk"))
    count = waiting().count()

    return {
        "queue": queue_state(),
        "worker": state,
        "stations": stations(reader, runs, look),
        "places": places(reader, state, look),
        "waiting_count": count,
        "own_count": waiting().filter(owner=reader.pk).count(),
        "running_count": len(runs),
    }


def places(reader: User, state: WorkerState, look: Look) -> list[Place]:
    """The line, the next train first."""
    shown = _positions_shown(reader)
    if not shown:
        return []

    visible = TrainRun.objects.visible_to(reader)
    runs = visible.with_related().in_bulk([pk for _, pk, _ in shown])
    after = [run.starts_after_id for run in runs.values() if run.starts_after_id is not None]
    predecessors = {train.number: train for train in visible.filter(job__in=after)}
    estimates = starts_now(state)
    shown_places = []

    for position, pk, priority in shown:
        run = runs.get(pk)
        waits_for = predecessors.get(run.starts_after_id or 0) if run is not None else None
        place = _place(position, run, priority, estimates.get(pk), reader, waits_for)
        shown_places.append(replace(place, reason=_reason(pk, run, look)))

    return shown_places


def _reason(pk: int, run: TrainRun | None, look: Look) -> str:
    """How many devices a train of somebody else needs, and where, is not for everybody."""
    reason = look.reasons.get(pk, "")
    return reason if run is not None or reason == KEPT else ""


def _positions_shown(reader: User) -> list[tuple[int, int, int]]:
    """(position, id, priority) of the first MOST_PLACES in line, and of the reader's own behind
    them."""
    order = waiting().values_list("pk", "owner", "priority")
    shown = []
    own_count = 0

    for position, (pk, owner, priority) in enumerate(order, start=1):
        if position > MOST_PLACES:
            if owner != reader.pk or own_count == MOST_OWN:
                continue

            own_count += 1

        shown.append((position, pk, priority))

    return shown


def _place(
    position: int,
    run: TrainRun | None,
    priority: int,
    starts: Estimate | None,
    reader: User,
    waits_for: TrainRun | None,
) -> Place:
    is_visible = run is not None
    may_stop = run is not None and may_change(run, reader)

    return Place(
        position=position,
        run=run,
        priority=priority,
        starts=starts,
        may_move=may_stop or (is_visible and may_manage_queue(reader)),
        may_stop=may_stop,
        is_own=run is not None and run.owner_id == reader.pk,
        waits_for=waits_for,
    )


def stations(reader: User, runs: list[TrainRun], look: Look) -> list[Station]:
    """Every worker that is there, and every train that runs on one that is not."""
    try:
        present = sorted(workers_present(), key=_order)
        lanes = {str(lane["name"]): lane for lane in lanes_present()} if cluster_is_set() else {}
    except RedisError:
        present, lanes = [], {}

    visible = set(TrainRun.objects.visible_to(reader).active().values_list("pk", flat=True))
    # Of workers of an earlier version.
    without_devices = {run.worker: run for run in runs if run.worker and not run.devices}
    holders = holders_of(runs)
    known = {str(worker["name"]) for worker in present} | lanes.keys()
    on_cluster = {run.worker: run for run in runs if run.cluster}
    main = _main_spots(holders, present, known)
    shown = set()
    every_station = []

    for worker in present:
        name = str(worker["name"])
        if "cluster" in worker:
            run = on_cluster.get(name)
            kept_for = look.kept.get(machine_key(worker["cluster"]["name"], CLUSTER_SLOT), 0)
            lane = _lane(worker, present, on_cluster.values())
            station = _station(lane, run, visible, reader)
            every_station.append(replace(station, kept_for=0 if run is not None else kept_for))
            shown |= {run.pk} if run is not None else set()
            continue

        spot = spot_of(worker)
        run = holders.get(spot) or without_devices.get(name)
        station = _station(worker, run, visible, reader)
        is_lent = run is not None and bool(run.devices) and main.get(run.pk) != spot
        kept_for = 0 if station.is_busy else look.kept.get(spot[0], 0)
        every_station.append(replace(station, is_lent=is_lent, kept_for=kept_for))
        if run is not None and not is_lent:
            shown.add(run.pk)

    for run in runs:
        if run.pk not in shown:
            worker = {
                "name": run.worker,
                "host": run.host,
                "device": run.facts.get("device") or {},
            }
            if run.cluster:
                worker["device"] = {"name": cluster_title(run.cluster), "label": run.devices_text}

            station = _station(worker, run, visible, reader)
            note = str(lanes.get(run.worker, {}).get("away", ""))
            every_station.append(replace(station, is_here=run.worker in known, note=note))

    return every_station


def _cluster_of(worker: dict[str, Any]) -> str:
    """ "" for a worker of a machine."""
    return str(worker["cluster"]["name"]) if "cluster" in worker else ""


def _lane(
    worker: dict[str, Any], present: Iterable[dict[str, Any]], runs: Iterable[TrainRun]
) -> dict[str, Any]:
    """A worker of a cluster, with what the cluster has in place of a device. present: all workers."""
    name = _cluster_of(worker)
    count = len(worker["cluster"]["devices"])
    taken = sum(len(run.devices) for run in runs if run.cluster == name)
    label = f"{counted(count, 'device')}, {max(0, count - taken)} free"

    lanes = [str(each["name"]) for each in present if _cluster_of(each) == name]
    if len(lanes) > 1:
        # Each takes one train at a time.
        label = f"slot {lanes.index(str(worker['name'])) + 1} of {len(lanes)}, {label}"

    kind = worker["device"].get("kind", "cpu")
    return worker | {"device": {"kind": kind, "name": cluster_title(name), "label": label}}


def _main_spots(
    holders: Mapping[Spot, TrainRun], present: list[dict[str, Any]], known: set[str]
) -> dict[int, Spot]:
    """{id of a train whose worker answers: the first of its devices that has a worker}."""
    spots: dict[int, Spot] = {}
    for worker in present:
        spot = spot_of(worker)
        run = holders.get(spot)
        if run is not None and run.worker in known:
            spots.setdefault(run.pk, spot)

    return spots


def _order(worker: dict[str, Any]) -> tuple[str, int, str]:
    """By machine and device."""
    return str(worker["host"]), int(worker["device"].get("index", 0)), str(worker["name"])


def _station(
    worker: dict[str, Any],
    run: TrainRun | None,
    visible: set[int],
    reader: User,
) -> Station:
    """`visible`: ids of the running trains that the reader may see."""
    seen = run if run is not None and run.pk in visible else None
    return Station(
        worker=str(worker["name"]),
        host=str(worker["host"]),
        device=worker["device"],
        is_here=True,
        is_busy=run is not None,
        run=seen,
        may_change=seen is not None and may_change(seen, reader),
    )
