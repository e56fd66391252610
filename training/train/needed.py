"""Why a train that has ended is still needed, so that it cannot be deleted; and how what waits for
it is stopped where it is deleted.

What waits until a train has succeeded keeps it for whoever can end that wait: what belongs to the
train's owner, and what the person who deletes may change. They may not even be able to see what
belongs to others, so that is stopped with the deletion: left alone it would start as if the train
had succeeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from core.ownership import Reader, may_change
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


@dataclass(frozen=True)
class Waiting:
    """A kind of rows that may wait until a train has succeeded.

    of: those that wait for a train. text: why they keep it, for people. stop: ends the wait of one,
    which is locked, and tells its owner the reason. tables: those to lock."""

    of: Callable[[TrainRun], QuerySet[Any]]
    text: Callable[[list[Any]], str]
    stop: Callable[[Any, str], None]
    tables: tuple[str, ...] = ("self",)


_waiting: list[Waiting] = []


def waiting_register(waiting: Waiting) -> None:
    """For an app to call once, when it is ready."""
    # Before those of apps below: what orders trains stops its own.
    _waiting.insert(0, waiting)


def needed_text(run: TrainRun, by: Reader) -> str:
    """Why `run` stays where `by` deletes it, for people; "" where nothing needs it."""
    texts = (needs(run) for needs in (_model_being_made, _trains_to_score, *_also))
    return next(filter(None, texts), "") or next(_waiting_texts(run, by), "")


def _waiting_texts(run: TrainRun, by: Reader) -> Iterator[str]:
    for waiting in _waiting_for(run):
        if rows := [row for row in waiting.of(run) if _keeps(row, run, by)]:
            yield waiting.text(rows)


def waiting_stop(run: TrainRun, by: Reader) -> None:
    """Stop what waits for `run`, which `by` deletes, and does not keep it. Call it inside the
    transaction that deletes it, before that."""
    reason = f"It was waiting for train #{run.pk}, which was deleted."
    for waiting in _waiting_for(run):
        for row in waiting.of(run).select_for_update(of=waiting.tables):
            if not _keeps(row, run, by):
                waiting.stop(row, reason)


def _waiting_for(run: TrainRun) -> list[Waiting]:
    return [] if run.status == TrainRun.Status.FINISHED else _waiting


def _keeps(row: Any, run: TrainRun, by: Reader) -> bool:
    return row.owner_id == run.owner_id or may_change(row, by)


def _model_being_made(run: TrainRun) -> str:
    models = BaseModel.objects.filter(trained_from__train=run.pk)
    if models.filter(status=BaseModel.Status.IMPORTING).exists():
        return "A model is being made from this train. Delete it once that is ready."

    return ""


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
