"""Sweeps of real rows and folders, whose trains are run by hand; what runs for real stands in
tests/browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from methods.models import TrainingMethod
from sweeps.advancing import sweep_advance
from sweeps.checking import Request
from sweeps.models import Sweep, Trial
from sweeps.services import sweep_start
from tests.chains.conftest import (  # noqa: F401 - fixtures
    WORKER,
    home,
    model,
    pairs,
    toys,
    workers,
)
from training.models import MetricRow, TrainRun

RATES = {"learning_rate": {"values": [1e-4, 2e-4, 5e-4]}}
STEPS = 40


@pytest.fixture
def request_of(alice, model, toys) -> Callable[..., Request]:  # noqa: F811
    """A sweep of Alice's that is asked for: three learning rates, unless `changes` say more."""

    def make(**changes: Any) -> Request:
        slug = changes.pop("method", "lora")
        asked = {
            "owner": alice,
            "method": TrainingMethod.objects.get(slug=slug),
            "base_model": model,
            "dataset": toys,
            "space": RATES,
            "name": "Rates",
            "seed": 7,
        }
        return Request(**asked | changes)

    return make


@pytest.fixture
def make_sweep(request_of) -> Callable[..., Sweep]:
    def make(**changes: Any) -> Sweep:
        sweep, _ = sweep_start(request_of(**changes))
        return sweep

    return make


def trials(sweep: Sweep) -> list[Trial]:
    return list(sweep.trials.select_related("run__method"))


def advance(sweep: Sweep) -> Sweep:
    """Twice: the second time must change nothing."""
    sweep_advance(sweep.pk)
    before = snapshot(sweep)
    sweep_advance(sweep.pk)
    assert snapshot(sweep) == before
    sweep.refresh_from_db()
    return sweep


def snapshot(sweep: Sweep) -> list[Any]:
    return [
        list(Sweep.objects.filter(pk=sweep.pk).values_list()),
        list(Trial.objects.filter(sweep=sweep).values_list()),
        list(TrainRun.objects.order_by("pk").values_list("pk", "status", "parameters")),
    ]


def waiting(sweep: Sweep) -> list[Trial]:
    return [each for each in trials(sweep) if each.run and each.run.status == "queued"]


def run_begin(run: TrainRun) -> None:
    """As a worker would have begun it."""
    TrainRun.objects.filter(pk=run.pk).update(
        status="running", started_at=timezone.now(), total_steps=STEPS
    )


def report(run: TrainRun, step: int, value: float | None, metric: str = "eval_loss") -> None:
    split = "eval" if metric.startswith("eval_") else "train"
    MetricRow.objects.create(
        run=run, seq=step + 1, step=step, split=split, time=0, values={metric: value}
    )
    name = "last_evaluation" if split == "eval" else "last_metrics"
    TrainRun.objects.filter(pk=run.pk).update(**{name: {metric: value}, "step": step})


def run_end(run: TrainRun, status: str = "finished", **values: Any) -> None:
    TrainRun.objects.filter(pk=run.pk).update(status=status, finished_at=timezone.now(), **values)


def trained(sweep: Sweep, trial: Trial, score: Callable[[dict[str, Any], int], float]) -> None:
    """Run the train of a trial to its end, or until its sweep stops it: an evaluation after each
    quarter, whose value `score(values, step)` says."""
    run = trial.run
    assert run is not None
    run_begin(run)
    for step in range(STEPS // 4, STEPS + 1, STEPS // 4):
        report(run, step, score(trial.values, step))
        sweep_advance(sweep.pk)
        run.refresh_from_db()
        if run.status == "stopping":
            run_end(run, "stopped")
            return

    run_end(run)


def all_trained(
    sweep: Sweep, score: Callable[[dict[str, Any], int], float], most: int = 100
) -> Sweep:
    """Run its trains one after the other until there are no more."""
    for _ in range(most):
        sweep_advance(sweep.pk)
        left = waiting(sweep)
        if not left:
            break
        trained(sweep, left[0], score)

    return advance(sweep)
