"""Why a train that is ready does not start yet, in a sentence for pages and API."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.text import are, counted
from jobs.devices.machines import machine_key
from jobs.devices.presence import WorkerState, worker_state
from jobs.models import Machine
from training.models import TrainRun
from training.train.estimate import device_name
from training.work.claiming import placement_now
from training.work.placing import Gathering
from training.work.queue import device_kinds

KEPT = "Free devices are kept for an earlier train that needs several together."
ANSWERED = "Answers go first on devices that it needs: it waits until nobody asks the models there."


@dataclass(frozen=True)
class Look:
    """reasons: {id of a waiting train: what devices have to do with that it waits}, for those that
    gather, that others or answers keep from starting, and that need more devices than are there. kept: {key of
    a machine: on how many devices the train runs for which its devices are kept}."""

    reasons: dict[int, str] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


def waiting_look(state: WorkerState | None = None) -> Look:
    """Where no worker is there all wait for that, and nothing is said here."""
    state = state or worker_state()
    if not state.machines:
        return Look()

    placement = placement_now(state.machines, device_name(state))
    sizes = {machine.key: len(machine.devices) for machine in state.machines}

    reasons = {gathering.run.pk: _gathers(gathering) for gathering in placement.gathering}
    reasons |= {run.pk: KEPT for run in placement.kept_out}
    reasons |= {run.pk: ANSWERED for run in placement.answered}
    wide = [run for run in placement.homeless if run.width > 1]
    known = list(Machine.objects.order_by("-seen_at")) if wide else []
    reasons |= {run.pk: _is_homeless(run, known, sizes) for run in wide}

    kept = {gathering.key: gathering.run.width for gathering in placement.gathering}
    return Look(reasons, kept)


def waiting_reason(run: TrainRun) -> str:
    """The same of one train, "" for one that does not wait."""
    return waiting_look().reasons.get(run.pk, "") if run.status == TrainRun.Status.QUEUED else ""


def _gathers(gathering: Gathering) -> str:
    host = gathering.key.rpartition(" ")[0]
    free = gathering.free
    return (
        f"It gathers {counted(gathering.run.width, 'device')} on {host}: "
        f"{free or 'none'} {are(free)} free now."
    )


def _is_homeless(run: TrainRun, known: list[Machine], sizes: dict[str, int]) -> str:
    """sizes: {key of a machine: how many of its devices have a worker now}."""
    kinds = device_kinds(run.method, run.parameters)
    waits = f"It waits for a machine with {counted(run.width, 'device')}"

    for machine in known:
        if machine.devices < run.width or machine.kind not in kinds:
            continue
        key = machine_key(machine.host, machine.slot)
        if key not in sizes:
            return f"{waits}: {machine.host}, which has them, is away."

        there = counted(sizes[key], "worker")
        return f"{waits}: {machine.host} has them, but only {there} now."

    return f"{waits}. None that is known here has so many."
