"""Why a train that has ended is still needed, so that it cannot be deleted."""

from __future__ import annotations

from collections.abc import Callable

from core.text import counted
from models_app.models import BaseModel
from training.models import TrainRun
from training.train.reward_resources import is_reward_model, scorers_named

Needs = Callable[[TrainRun], str]

# Those of apps above this one.
_also: list[Needs] = []


def needed_also(needs: Needs) -> None:
    """Have `needs` say, too, why a train is needed; "" where it is not. For an app to call once,
    when it is ready."""
    _also.append(needs)


def needed_text(run: TrainRun) -> str:
    """Why `run` stays, for people; "" where nothing needs it."""
    texts = (needs(run) for needs in (_model_being_made, _trains_to_score, _followers, *_also))
    return next(filter(None, texts), "")


def _model_being_made(run: TrainRun) -> str:
    models = BaseModel.objects.filter(trained_from__train=run.pk)
    if models.filter(status=BaseModel.Status.IMPORTING).exists():
        return "A model is being made from this train. Delete it once that is ready."

    return ""


def _followers(run: TrainRun) -> str:
    """Trains that wait until this one has succeeded: without it they would start. By their numbers,
    as they may be somebody else's."""
    if run.status == TrainRun.Status.FINISHED:
        return ""

    waiting = TrainRun.objects.filter(starts_after=run.job_id, status=TrainRun.Status.QUEUED)
    numbers = [f"#{pk}" for pk in waiting.order_by("pk").values_list("pk", flat=True)]
    if not numbers:
        return ""

    named = ", ".join(numbers)
    who = f"Train {named} waits" if len(numbers) == 1 else f"Trains {named} wait"
    return f"{who} until this one has succeeded. Choose “Do not wait for it” there, or stop what waits."


def _trains_to_score(run: TrainRun) -> str:
    """Trains that have not ended, and whose rewards come from this one."""
    if not is_reward_model(run):
        return ""

    open_trains = TrainRun.objects.exclude(status__in=TrainRun.ENDED)
    lists = open_trains.values_list("parameters", flat=True)
    count = sum(run.pk in scorers_named(parameters) for parameters in lists)
    if not count:
        return ""

    return (
        f"{counted(count, 'train')} waiting or running with rewards from this one. Delete it once "
        "nothing needs it."
    )
