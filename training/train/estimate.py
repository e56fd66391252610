"""How long trains will take, judging by similar finished ones, and when waiting trains will start:
estimates with their error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from jobs.devices.launchers import ANYWHERE, LOCAL
from jobs.devices.machines import key_of_device
from jobs.devices.presence import WorkerState, worker_state
from jobs.durations import run_seconds
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.models import TrainRun
from training.train.similar import LIMITS, SIMILAR_TRAINS, Pace, pace_of, similar_trains
from training.work.queue import queue_state, waiting

# The error, as a share of the estimate, where only one similar train is known.
ERROR_OF_ONE = 0.5
# The same for a train that is judged by its own pace alone.
ERROR_OF_OWN_PACE = 0.1


@dataclass(frozen=True)
class Estimate:
    """`seconds` give or take `error`, based on `trains` similar trains."""

    seconds: float
    error: float
    trains: int

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            seconds=self.seconds + other.seconds,
            error=self.error + other.error,
            trains=min(self.trains, other.trains),
        )


NOTHING = Estimate(0.0, 0.0, SIMILAR_TRAINS)


class Estimator:
    """Estimates for many trains; similar finished trains are looked up once.

    device: the name of the device that will run them, "" where it is not known.
    """

    def __init__(self, device: str = "") -> None:
        self.device = device
        self.paces: dict[tuple[Any, ...], list[Pace]] = {}

    def of(self, run: TrainRun) -> Estimate | None:
        """None where no similar train has finished."""
        return self.guess(
            run.method,
            run.base_model,
            run.parameters,
            run.planned_rows,
            run.dataset_id,
        )

    def guess(
        self,
        method: TrainingMethod,
        base_model: BaseModel,
        parameters: dict[str, Any],
        rows: int,
        dataset_id: int | None = None,
    ) -> Estimate | None:
        """The median over finished trains of the same method, base model, token limit and device;
        over those on the same data where there are any. The error is half of their interquartile
        range."""
        if method.is_custom or not rows:
            return None

        paces = self._paces(method.pk, base_model.pk, parameters, dataset_id)
        if not paces:
            paces = self._paces(method.pk, base_model.pk, parameters, None)
        if not paces:
            return None

        durations = [pace.seconds(rows) for pace in paces]
        return Estimate(median(durations), _error(durations), len(durations))

    def left(self, run: TrainRun) -> Estimate | None:
        """What a running train still needs: by its own pace once it has one."""
        whole = self.of(run)
        left = run.seconds_left

        if left is not None:
            if whole is None:
                return Estimate(left, left * ERROR_OF_OWN_PACE, 1)

            share = whole.error / whole.seconds if whole.seconds else ERROR_OF_OWN_PACE
            return Estimate(left, left * share, whole.trains)

        if whole is None:
            return None

        ran_for = run_seconds(run) or 0.0
        return Estimate(max(0.0, whole.seconds - ran_for), whole.error, whole.trains)

    def _paces(
        self, method: int, base_model: int, parameters: dict[str, Any], dataset: int | None
    ) -> list[Pace]:
        limits = tuple(parameters.get(name) for name in LIMITS)
        key = (method, base_model, limits, parameters.get("devices", 1), dataset)
        if key not in self.paces:
            trains = similar_trains(
                method=method,
                base_model=base_model,
                parameters=parameters,
                device=self.device,
                dataset=dataset,
            )

            self.paces[key] = [pace_of(run) for run in trains[:SIMILAR_TRAINS]]

        return self.paces[key]


def _error(durations: list[float]) -> float:
    """Half the interquartile range."""
    if len(durations) == 1:
        return ERROR_OF_ONE * durations[0]

    ordered = sorted(durations)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2


def starts_now(state: WorkerState | None = None) -> dict[int, Estimate | None]:
    """`starts` with the machines that are there; empty while nothing would start."""
    state = state or worker_state()
    if not state.ready or queue_state().holds:
        return {}

    sizes = {machine.key: len(machine.devices) for machine in state.machines}
    launchers = {machine.key: machine.launcher for machine in state.machines}
    return starts(sizes, device_name(state), launchers)


def device_name(state: WorkerState, launcher: str = ANYWHERE) -> str:
    return str((state.device_for(launcher) or {}).get("name", ""))


def starts(
    sizes: dict[str, int], device: str = "", launchers: Mapping[str, str] | None = None
) -> dict[int, Estimate | None]:
    """{id of a waiting train: how long until it starts}, None where the duration of a train before
    it cannot be estimated, or no machine has enough devices.

    sizes: {key of a machine: how many devices it has}. launchers: {key: of trains that it runs}. Each
    train in its turn takes the devices that
    it needs on the machine where so many are free first."""
    estimator = Estimator(device)
    machines = {key: _FreeDevices() for key in sizes}

    for run in TrainRun.objects.active().select_related("method", "base_model"):
        if machines:
            key = machine_of(run) or ""
            roomiest = max(machines, key=lambda key: sizes[key] - len(machines[key].free_in))
            machine = machines.get(key, machines[roomiest])
            machine.free_in += [estimator.left(run)] * max(1, len(run.devices))

    for key, machine in machines.items():
        missing = sizes[key] - len(machine.free_in)
        machine.free_in += [NOTHING] * missing

    starting: dict[int, Estimate | None] = {}
    for run in waiting().select_related("method", "base_model", "starts_after"):
        width = run.width
        fitting = [
            each
            for key, each in machines.items()
            if len(each.free_in) >= width and _may_be_on(run, (launchers or {}).get(key, LOCAL))
        ]
        if not fitting or _waits_for_another(run):
            starting[run.pk] = None
            continue

        machine = min(fitting, key=lambda each: each.seconds_until_free(width))
        starting[run.pk] = machine.take(width, estimator.of(run))

    return starting


def _may_be_on(run: TrainRun, launcher: str) -> bool:
    return run.launcher_now in (ANYWHERE, launcher)


def machine_of(run: TrainRun) -> str | None:
    """The key of the machine whose devices a train has; None where that is not known."""
    keys = [key_of_device(device, run.host) for device in run.devices]
    return keys[0] if run.host and keys else None


class _FreeDevices:
    """When each device of a machine becomes free; None: not known, and counted last."""

    def __init__(self) -> None:
        self.free_in: list[Estimate | None] = []

    def seconds_until_free(self, count: int) -> float:
        return sorted(_seconds(free_in) for free_in in self.free_in)[count - 1]

    def take(self, count: int, duration: Estimate | None) -> Estimate | None:
        """Take the first `count` that become free for so long. Returns when that begins."""
        in_order = sorted(self.free_in, key=_seconds)
        begins = in_order[count - 1]
        ends = begins + duration if begins is not None and duration is not None else None
        self.free_in = in_order[count:] + [ends] * count

        return begins


def _seconds(free_in: Estimate | None) -> float:
    return math.inf if free_in is None else free_in.seconds


def _waits_for_another(run: TrainRun) -> bool:
    predecessor = run.starts_after
    return predecessor is not None and predecessor.status != TrainRun.Status.FINISHED
