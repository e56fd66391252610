"""Finished trains of the same kind as another one, and what they say about how long it will
take."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

from engine.contract.arithmetic import effective_batch
from jobs.durations import run_seconds
from training.models import TrainRun, TrainRunQuerySet
from training.train.phases import spent_of
from training.train.time_left import ROUNDS, TRAINING

SIMILAR_TRAINS = 20
LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Pace:
    """How long a train took: for each row that it learned from, and for everything else, such as
    loading, evaluation, sample answers and saving."""

    seconds_per_row: float
    other_seconds: float

    def seconds(self, rows: int) -> float:
        return self.seconds_per_row * rows + self.other_seconds


def similar_trains(
    *,
    method: int,
    base_model: int,
    parameters: dict[str, Any],
    device: str = "",
    dataset: int | None = None,
) -> TrainRunQuerySet:
    """Finished trains of the same method and base model with the same token limit, the newest
    first; on the same device and dataset where those are given."""
    limit = next((name for name in LIMITS if name in parameters), None)
    if limit is None:
        return TrainRun.objects.none()

    trains = TrainRun.objects.filter(
        status=TrainRun.Status.FINISHED,
        method_id=method,
        base_model_id=base_model,
        **{f"parameters__{limit}": parameters[limit]},
        step__gt=0,
        started_at__isnull=False,
        finished_at__isnull=False,
    )

    if device:
        trains = trains.filter(facts__device__name=device)
    if dataset is not None:
        trains = trains.filter(dataset_id=dataset)

    return trains


def pace_of(run: TrainRun) -> Pace:
    """Trains from before phases were timed have one pace for everything."""
    parameters = run.parameters
    batch = effective_batch(
        parameters["batch_size"],
        parameters["gradient_accumulation_steps"],
        parameters.get("devices", 1),
    )
    rows = max(1, run.step * batch)
    seconds = run_seconds(run) or 0.0
    training_seconds = seconds

    if "spent" in run.facts:
        _, timed = spent_of(run.facts).get(TRAINING, (0, 0.0))
        training_seconds = min(timed, seconds)

    return Pace(training_seconds / rows, seconds - training_seconds)


def rounds_of_similar(run: TrainRun) -> dict[str, float]:
    """{phase: median seconds of a round, "trains": how many were looked at} for evaluation, saving
    and sample answers, from similar trains; on the same data where there are any. Empty where no
    similar train has finished."""
    kind = {
        "method": run.method_id,
        "base_model": run.base_model_id,
        "parameters": run.parameters,
    }
    trains = list(similar_trains(**kind, dataset=run.dataset_id)[:SIMILAR_TRAINS])
    if not trains:
        trains = list(similar_trains(**kind)[:SIMILAR_TRAINS])

    timed = [spent_of(train.facts) for train in trains if "spent" in train.facts]
    seconds: dict[str, list[float]] = defaultdict(list)

    for spent in timed:
        for phase in ROUNDS:
            if phase in spent:
                rounds, total = spent[phase]
                seconds[phase].append(total / rounds)

    if not seconds:
        return {}

    medians = {phase: median(values) for phase, values in seconds.items()}
    return medians | {"trains": len(timed)}
