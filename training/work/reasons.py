"""Why a train that is ready does not start yet, in a sentence for pages and API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from core.text import are, counted
from jobs.devices.cluster import cluster_absence
from jobs.devices.launchers import LOCAL, RAY, cluster_is_set
from jobs.devices.machines import Present, machine_key, machines_known
from jobs.devices.presence import WorkerState, worker_state
from training.models import TrainRun
from training.train.estimate import device_name
from training.work.claiming import placement_now
from training.work.placing import Gathering
from training.work.queue import device_kinds

KEPT = "Free devices are kept for an earlier train that needs several together."
ANSWERED = "Answers go first on devices that it needs: it waits until the models there are idle."
NO_LOCAL = "It waits for a machine of this platform: no worker of one is running."


@dataclass(frozen=True)
class Look:
    """reasons: {id of a waiting train: what devices have to do with that it waits}, for those that
    gather, that others or answers keep from starting, that need more devices than are there, and that
    wait for a cluster that is away. kept: {key of a machine: on how many devices the train runs for
    which its devices are kept}."""

    reasons: dict[int, str] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


def waiting_look(state: WorkerState | None = None) -> Look:
    """Where no worker is there all wait for that, and that is said here only of those that wait for a
    cluster."""
    state = state or worker_state()
    if not state.machines and not cluster_is_set():
        return Look()

    placement = placement_now(state.machines, device_name(state))
    machines = {machine.key: machine for machine in state.machines}

    reasons = {gathering.run.pk: _gathers(gathering, machines) for gathering in placement.gathering}
    reasons |= {run.pk: KEPT for run in placement.kept_out}
    reasons |= {run.pk: ANSWERED for run in placement.answered}
    reasons |= _homeless(placement.homeless, state, machines)

    kept = {gathering.key: gathering.run.width for gathering in placement.gathering}
    return Look(reasons, kept)


def waiting_reason(run: TrainRun) -> str:
    """The same of one train, "" for one that does not wait."""
    return waiting_look().reasons.get(run.pk, "") if run.status == TrainRun.Status.QUEUED else ""


def _gathers(gathering: Gathering, machines: Mapping[str, Present]) -> str:
    free = gathering.free
    return (
        f"It gathers {counted(gathering.run.width, 'device')} on {machines[gathering.key].words}: "
        f"{free or 'none'} {are(free)} free now."
    )


def _homeless(
    runs: Iterable[TrainRun], state: WorkerState, machines: Mapping[str, Present]
) -> dict[int, str]:
    """Of trains that no machine that is there could run."""
    runs = list(runs)
    on_cluster = [run for run in runs if run.launcher_now == RAY]
    absence = cluster_absence(state) if on_cluster else ""
    reasons = {run.pk: absence for run in on_cluster if absence}
    if not machines:
        return reasons

    has_local = any(machine.launcher == LOCAL for machine in machines.values())
    for run in runs:
        if run.launcher_now == LOCAL and not has_local:
            reasons[run.pk] = NO_LOCAL
        elif run.pk not in reasons:
            reasons[run.pk] = _missing(run, machines)

    return {pk: reason for pk, reason in reasons.items() if reason}


def _missing(run: TrainRun, machines: Mapping[str, Present]) -> str:
    """What a train lacks. "" for one of one device that waits for a GPU of a machine of this platform:
    it was checked when it was started."""
    launcher = run.launcher_now
    kinds = device_kinds(run.method, run.parameters)
    if launcher == RAY and run.width == 1:
        return "It needs a GPU, and no node of the Ray cluster has one now."
    if run.width == 1:
        return ""

    waits = f"It waits for a machine with {counted(run.width, 'device')}"
    for machine in machines_known(kinds, launcher).order_by("-seen_at"):
        if machine.devices < run.width:
            continue

        present = machines.get(machine_key(machine.host, machine.slot))
        if present is None:
            return f"{waits}: {machine.words}, which has them, is away."

        what = "device" if present.is_cluster else "worker"
        there = counted(len(present.devices), what)
        return f"{waits}: {machine.words} has them, but only {there} now."

    return f"{waits}. None that is known here has so many."
