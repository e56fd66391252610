"""A worker takes the train that starts on its machine, with the devices that the train needs.

Its own device is among them where that is free and no model is loaded there. Which train that is,
training.work.placing says. The database decides between workers of different machines, by one
conditional write; those of one machine decide one after the other. Before a train is called running
its worker holds the locks of all its devices (jobs.devices.locks)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.utils import timezone

from jobs.devices.launchers import LAUNCHERS
from jobs.devices.locks import DeviceLocks, claiming
from jobs.devices.machines import Present, key_of_device, machine_key
from jobs.devices.presence import Seat, WorkerState, worker_state
from jobs.devices.sharing import Rule, device_policy, devices_held, has_models
from training.models import TrainRun
from training.train.estimate import Estimator, device_name
from training.work.placing import Gathering, Machine, Placement, Wish, place
from training.work.queue import device_kinds, queue_state, ready, workers_notify_missing

logger = logging.getLogger("deepextension.worker")

Status = TrainRun.Status
# (key of a machine, identity of one of its devices).
Spot = tuple[str, str]
# {a device that cannot be had now: the train that has it}; None where it is no train.
Holders = dict[Spot, TrainRun | None]


def train_claim(seat: Seat, locks: DeviceLocks, **values: Any) -> TrainRun | None:
    """Take the first train that starts on this worker's machine and write `values` with its start;
    None where there is none. `locks` are then those of its devices.

    Where this fails nothing is held."""
    with claiming(seat.machine.host if seat.machine.is_cluster else ""):
        try:
            run = _claim(seat, locks, values)
        except BaseException:
            locks.close()
            raise

        if run is None:
            locks.close()

    return run


def _claim(seat: Seat, locks: DeviceLocks, values: dict[str, Any]) -> TrainRun | None:
    own = seat.machine.key

    while not queue_state(seat.machine.host).holds:
        holders = holders_now(seat.machines)
        free = _free_here(seat, holders, locks)
        if not free:
            return None

        machines = [
            machine_now(machine, holders, free if machine.key == own else None)
            for machine in seat.machines
        ]
        now = timezone.now()
        placement = place(wishes(), machines, Estimator(_name(seat)), now, own=own)
        gatherings_store(placement.gathering)

        run = next((run for run, key in placement.starts if key == own), None)
        if run is None:
            return None

        chosen = _chosen(seat, free, run.width)
        devices = [_entry(seat.machine, name) for name in seat.machine.devices if name in chosen]
        # Where a worker of another machine was faster this fails, and the next train is tried.
        if run.transition(
            Status.RUNNING,
            attempt=run.attempt,
            devices=devices,
            gathers_on="",
            gathers_until=None,
            **values,
        ):
            locks.keep(set(chosen))
            return run

    return None


def _free_here(seat: Seat, holders: Holders, locks: DeviceLocks) -> list[str]:
    """The devices of this machine that no train has, neither by the database nor in fact: they are
    locked now."""
    key = seat.machine.key
    free = [identity for identity in seat.machine.devices if (key, identity) not in holders]
    locks.keep(set(free))
    return [identity for identity in free if locks.take(identity)]


def _chosen(seat: Seat, free: list[str], count: int) -> list[str]:
    """Those on which no model is loaded, as long as there are any; its own before others."""
    loaded: set[str] = set()
    may_have_models = seat.machine.kind != "cpu" and not seat.machine.is_cluster
    if len(free) > count and may_have_models:
        loaded = {identity for identity in free if has_models(identity)}

    in_order = sorted(free, key=lambda identity: (identity in loaded, identity != seat.identity))
    return in_order[:count]


def _entry(machine: Present, identity: str) -> dict[str, str]:
    """What is stored of a device that a train has."""
    label = str(machine.devices[identity].get("label", ""))
    entry = {"identity": identity, "slot": machine.slot, "label": label}
    # Which of its devices a train really has the cluster decides.
    return entry | {"machine": machine.host, "label": ""} if machine.is_cluster else entry


def _name(seat: Seat) -> str:
    return str(seat.machine.devices[seat.identity].get("name", ""))


# What is there


def wishes(most: int | None = None) -> Iterator[Wish]:
    """The trains that wait for nothing but devices, in the order of the queue. most: only the first
    so many."""
    for run in ready().select_related("method", "base_model")[:most]:
        yield Wish(run, device_kinds(run.method, run.parameters), run.launcher_now)


def holders_now(machines: Sequence[Present]) -> Holders:
    """Which devices trains cannot have now: those of other trains, and where answers go first those
    on which somebody is answered."""
    running = TrainRun.objects.active().select_related("method", "base_model")
    holders: Holders = dict(holders_of(running, machines))

    if device_policy().rule != Rule.CHAT:
        return holders

    for machine in machines:
        held = set() if machine.is_cluster else devices_held(machine.host, machine.devices)
        for identity in held:
            holders.setdefault((machine.key, identity), None)

    return holders


def holders_of(
    running: Iterable[TrainRun], machines: Sequence[Present] = ()
) -> dict[Spot, TrainRun]:
    """{device of a machine: the train that has it}. machines: where trains of workers of an earlier
    version, which do not say what they have, are looked for, and those whose devices have left
    their cluster."""
    holders: dict[Spot, TrainRun] = {}

    for run in running:
        for device in run.devices:
            spot = key_of_device(device, run.host), str(device.get("identity", ""))
            holders[spot] = run

        if not run.devices and run.worker:
            holders |= dict.fromkeys(_spots_of_worker(run.worker, machines), run)

    for machine in machines:
        if machine.is_cluster:
            holders |= _moved(holders, machine)

    return holders


def _moved(holders: Mapping[Spot, TrainRun], cluster: Present) -> dict[Spot, TrainRun]:
    """Devices that are counted for trains some of whose own are gone with their nodes: the cluster
    runs these trains, or has them wait, where there is room."""
    gone = [
        run
        for (key, identity), run in holders.items()
        if key == cluster.key and identity not in cluster.devices
    ]
    free = [name for name in cluster.devices if (cluster.key, name) not in holders]
    return {(cluster.key, name): run for name, run in zip(free, gone, strict=False)}


def spot_of(presence: dict[str, Any]) -> Spot:
    """Of a worker of one device as jobs.devices.presence.workers_present has it."""
    key = machine_key(str(presence["host"]), str(presence.get("slot", "0")))
    return key, str(presence["device"].get("identity", ""))


def _spots_of_worker(worker: str, machines: Iterable[Present]) -> list[Spot]:
    return [
        (machine.key, identity)
        for machine in machines
        for identity, name in machine.workers.items()
        if name == worker
    ]


def machine_now(machine: Present, holders: Holders, free: list[str] | None = None) -> Machine:
    """free: the devices that are known to be free, where that is known."""
    if free is None:
        free = [name for name in machine.devices if (machine.key, name) not in holders]

    busy = [(machine.key, name) for name in machine.devices if name not in free]
    # Of one that is locked, and of which no row says by whom, the holder is None too.
    answering = [spot for spot in busy if spot in holders and holders[spot] is None]
    held = [holders.get(spot) for spot in busy if spot not in answering]

    return Machine(
        machine.key,
        machine.kind,
        len(free),
        held,
        len(answering),
        machine.coming,
        machine.launcher,
    )


def placement_now(
    machines: Sequence[Present], device: str = "", most: int | None = None
) -> Placement:
    """Where every waiting train stands. device: the name of a device, for estimates. most: look at
    the first so many only."""
    holders = holders_now(machines)
    present = [machine_now(machine, holders) for machine in machines]

    return place(wishes(most), present, Estimator(device), timezone.now())


def waiting_trains_notify(state: WorkerState | None = None) -> int:
    """Notify idle workers where a train could start now. Returns how many were notified.

    All of them: only one of the right machine can take it, and who gets a notification is chance."""
    state = state or worker_state()
    if not state.machines or queue_state().holds:
        return 0

    placement = placement_now(state.machines, device_name(state))
    gatherings_store(placement.gathering)
    gatherings_forget(placement)
    if not placement.starts:
        return 0

    busy = set(TrainRun.objects.active().values_list("worker", flat=True))
    notified = 0
    for launcher in LAUNCHERS:
        workers = {
            name
            for machine in state.machines
            if machine.launcher == launcher
            for name in machine.worker_names
        }
        notified += workers_notify_missing(len(workers - busy), launcher)

    return notified


# What is stored of those that gather


def gatherings_store(gatherings: Iterable[Gathering]) -> None:
    for gathering in gatherings:
        run = gathering.run
        if (run.gathers_on, run.gathers_until) != (gathering.key, gathering.until):
            _store(run, gathering.key, gathering.until)


def gatherings_forget(placement: Placement) -> None:
    """Those that gather no more: another machine is theirs, or an earlier train's."""
    numbers = [gathering.run.number for gathering in placement.gathering]
    waiting = TrainRun.objects.filter(status=Status.QUEUED).exclude(gathers_on="")
    for run in waiting.exclude(number__in=numbers):
        _store(run, "", None)


def _store(run: TrainRun, key: str, until: datetime | None) -> None:
    mine = TrainRun.objects.filter(pk=run.pk, status=Status.QUEUED, attempt=run.attempt)
    mine.update(gathers_on=key, gathers_until=until)
