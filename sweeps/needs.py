"""What sweeps that run need of trains."""

from __future__ import annotations

from django.db.models import QuerySet

from sweeps.advancing import sweep_halt
from sweeps.models import Sweep
from training.models import TrainRun
from training.train.needed import Waiting
from training.train.reward_resources import is_reward_model, scorers_named

WAITS_FOR_IT = "A sweep waits until this train has succeeded. Stop the sweep first."
STANDS_ON_IT = "A running sweep takes its rewards from this train. Stop the sweep first."


def sweep_needs(run: TrainRun) -> str:
    """Why a sweep needs the train: its further trains have rewards from it; "" where none does."""
    if not is_reward_model(run):
        return ""

    lists = Sweep.objects.active().values_list("parameters", flat=True)
    is_named = any(run.pk in scorers_named(parameters) for parameters in lists)
    return STANDS_ON_IT if is_named else ""


def _waiting_for(run: TrainRun) -> QuerySet[Sweep]:
    """Those whose further trains wait for it."""
    return Sweep.objects.active().filter(starts_after=run).order_by("pk")


def _stop(sweep: Sweep, reason: str) -> None:
    sweep_halt(sweep, sweep.trials.select_related("run"), reason)


WAITING = Waiting(_waiting_for, lambda sweeps: WAITS_FOR_IT, _stop)
