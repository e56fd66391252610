"""How far a train is, and how long it took."""

from __future__ import annotations

from django.utils import timezone

from training.models import TrainRun


def run_seconds(run: TrainRun) -> float | None:
    """How long the train has run or ran, all attempts together; None for one that never started."""
    if run.started_at is None:
        return run.earlier_seconds or None

    end = run.finished_at or timezone.now()
    return run.earlier_seconds + (end - run.started_at).total_seconds()


def run_progress(run: TrainRun) -> float | None:
    """Share of the steps that are done, 0 to 1; None while the number of steps is not known."""
    if not run.total_steps:
        return None

    return min(1.0, run.step / run.total_steps)
