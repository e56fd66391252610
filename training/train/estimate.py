"""How long trains will take, from finished ones alike, and when those in line will start: guesses
with their error."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from statistics import median
from typing import Any

from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.models import TrainRun
from training.train.durations import run_seconds
from training.train.similar import LIMITS, SIMILAR_TRAINS, Pace, pace_of, similar_trains
from training.work.queue import queue_state, waiting
from training.work.worker_state import WorkerState, worker_state

# What another train than those seen may take more or less, where one alone was seen.
ERROR_OF_ONE = 0.5


@dataclass(frozen=True)
class Estimate:
    """`seconds` give or take `error`, based on `trains` similar trains."""

    seconds: float
    error: float
    trains: int

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.seconds + other.seconds, self.error + other.error, min(self.trains, other.trains)
        )


NOTHING = Estimate(0.0, 0.0, SIMILAR_TRAINS)


class Estimator:
    """Guesses for many trains; finished ones of a kind are looked up once.

    device: the name of the device that will run them, "" where it is not known.
    """

    def __init__(self, device: str = "") -> None:
        self.device = device
        self.paces: dict[tuple[Any, ...], list[Pace]] = {}

    def of(self, run: TrainRun) -> Estimate | None:
        """None where there is no finished train alike."""
        return self.guess(
            run.method, run.base_model, run.parameters, run.planned_rows, run.dataset_id
        )

    def guess(
        self,
        method: TrainingMethod,
        base_model: BaseModel,
        parameters: dict[str, Any],
        rows: int,
        dataset_id: int | None = None,
    ) -> Estimate | None:
        """The median of what finished trains of the same method, base model, token limit and device
        suggest; of those on the same data where there are such. The error is half of what the
        middle half of them differ."""
        if method.is_custom or not rows:
            return None

        paces = self._paces(method.pk, base_model.pk, parameters, dataset_id)
        paces = paces or self._paces(method.pk, base_model.pk, parameters, None)
        if not paces:
            return None

        guesses = [pace.seconds(rows) for pace in paces]
        middle = median(guesses)
        spread = _half_spread(guesses) if len(guesses) > 1 else ERROR_OF_ONE * middle

        return Estimate(middle, spread, len(guesses))

    def _paces(
        self, method: int, base_model: int, parameters: dict[str, Any], dataset: int | None
    ) -> list[Pace]:
        limits = tuple(parameters.get(name) for name in LIMITS)
        key = (method, base_model, limits, dataset)
        if key not in self.paces:
            found = similar_trains(
                method=method,
                base_model=base_model,
                parameters=parameters,
                device=self.device,
                dataset=dataset,
            )

            self.paces[key] = [pace_of(run) for run in found[:SIMILAR_TRAINS]]

        return self.paces[key]


def _half_spread(values: list[float]) -> float:
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2


def starts_now(state: WorkerState | None = None) -> dict[int, Estimate | None]:
    """`starts` with the workers that there are; all unknown while nothing would start."""
    state = state or worker_state()
    if not state.ready or queue_state().paused:
        return {}

    return starts(state.workers, device_name(state))


def device_name(state: WorkerState) -> str:
    return str((state.device or {}).get("name", ""))


def starts(workers: int, device: str = "") -> dict[int, Estimate | None]:
    """{id of a waiting train: how long until it starts}, None where something before it cannot be
    guessed.

    Each of `workers` takes the next train when its own has ended.
    """
    estimator = Estimator(device)
    free: list[tuple[float, int, Estimate | None]] = []

    for number, run in enumerate(TrainRun.objects.active().select_related("method", "base_model")):
        left = _left(run, estimator)
        heapq.heappush(free, (left.seconds if left else float("inf"), number, left))

    while len(free) < workers:
        heapq.heappush(free, (0.0, len(free), NOTHING))

    found: dict[int, Estimate | None] = {}
    for run in waiting().select_related("method", "base_model", "after"):
        if not free or (run.after is not None and run.after.status != TrainRun.Status.FINISHED):
            found[run.pk] = None
            continue

        _, number, begins = heapq.heappop(free)
        found[run.pk] = begins
        takes = estimator.of(run)
        ends = begins + takes if begins is not None and takes is not None else None
        heapq.heappush(free, (ends.seconds if ends else float("inf"), number, ends))

    return found


def _left(run: TrainRun, estimator: Estimator) -> Estimate | None:
    """What a running train still needs: by its own pace once it has one."""
    whole = estimator.of(run)

    if (left := run.seconds_left) is not None:
        share = whole.error / whole.seconds if whole and whole.seconds else 0.1
        return Estimate(left, left * share, whole.trains if whole else 1)

    if whole is None:
        return None

    return Estimate(max(0.0, whole.seconds - (run_seconds(run) or 0.0)), whole.error, whole.trains)
