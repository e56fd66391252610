"""Trains that wait until another one has succeeded, where that is to be deleted."""

from __future__ import annotations

from django.db.models import QuerySet

from training.models import TrainRun
from training.train.needed import Waiting
from training.train.resuming import warnings_with
from training.train.services import train_withdraw
from training.work.notices import train_notices_create

Status = TrainRun.Status


def _followers_of(run: TrainRun) -> QuerySet[TrainRun]:
    return TrainRun.objects.filter(starts_after=run.job_id, status=Status.QUEUED).order_by("pk")


def _text(followers: list[TrainRun]) -> str:
    named = ", ".join(f"#{follower.pk}" for follower in followers)
    who = f"Train {named} waits" if len(followers) == 1 else f"Trains {named} wait"
    return f"{who} until this one has succeeded. Choose “Do not wait for it” there, or stop what waits."


def _stop(follower: TrainRun, reason: str) -> None:
    # The warning stays on its page; the error is for the notice of its end.
    warnings = warnings_with(follower, "predecessor_deleted", reason)
    if train_withdraw(follower, error=reason, warnings=warnings):
        train_notices_create(follower)


FOLLOWERS = Waiting(_followers_of, _text, _stop, tables=("self", "job"))
