"""Finished trains of the same kind as another one, and what they say about how long it will
take."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from training.models import TrainRun, TrainRunQuerySet
from training.train.durations import run_seconds
from training.train.phases import spent_of
from training.train.time_left import ROUNDS, TRAINING

SIMILAR_TRAINS = 20
LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Pace:
    """How long a train took: seconds for each row that it learned from, and seconds for everything
    else, such as loading, evaluation, sample answers and saving."""

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

    found = TrainRun.objects.filter(
        status=TrainRun.Status.FINISHED,
        method_id=method,
        base_model_id=base_model,
        **{f"parameters__{limit}": parameters[limit]},
        step__gt=0,
        started_at__isnull=False,
        finished_at__isnull=False,
    )

    if device:
        found = found.filter(facts__device__name=device)
    if dataset is not None:
        found = found.filter(dataset_id=dataset)

    return found


def pace_of(run: TrainRun) -> Pace:
    """Trains from before phases were timed have one pace for everything."""
    rows = run.step * run.parameters["batch_size"] * run.parameters["gradient_accumulation_steps"]
    whole = run_seconds(run) or 0.0
    training = spent_of(run.facts).get(TRAINING, (0, 0.0))[1] if "spent" in run.facts else whole
    training = min(training, whole)

    return Pace(training / max(1, rows), whole - training)


def rounds_of_similar(run: TrainRun) -> dict[str, float]:
    """{phase: median seconds of a round, "trains": how many were looked at} for evaluation, saving
    and sample answers, from similar trains; on the same data where there are such. Empty where
    nothing similar has finished."""
    kind = {"method": run.method_id, "base_model": run.base_model_id, "parameters": run.parameters}
    found = list(similar_trains(**kind, dataset=run.dataset_id)[:SIMILAR_TRAINS])
    found = found or list(similar_trains(**kind)[:SIMILAR_TRAINS])

    seconds: dict[str, list[float]] = {phase: [] for phase in ROUNDS}
    timed = [spent_of(other.facts) for other in found if "spent" in other.facts]

    for spent in timed:
        for phase in ROUNDS:
            if phase in spent:
                rounds, total = spent[phase]
                seconds[phase].append(total / rounds)

    medians = {phase: median(values) for phase, values in seconds.items() if values}
    return medians | {"trains": len(timed)} if medians else {}
