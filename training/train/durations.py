"""How far a train is."""

from __future__ import annotations

from training.models import TrainRun


def run_progress(run: TrainRun) -> float | None:
    """Share of the steps that are done, 0 to 1; None while the number of steps is not known."""
    if not run.total_steps:
        return None

    return min(1.0, run.step / run.total_steps)
