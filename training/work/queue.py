"""The queue of waiting trains: which is next, who may move which, and which worker takes what.

The database holds the order (jobs.queue, with a glossary). A job in Redis only notifies a worker
that a train may wait, and names none: the worker that receives it claims the first train that can
start on its device (training.work.claiming). So nothing is ever reordered inside Redis, and a
notification too many finds nothing to do.

Glossary:

ready         Waiting for a worker only, and for no other train (`starts_after`).
claim         To take a train out of the queue and start it, see training.work.claiming.
notify        To put a job into Redis that makes an idle worker look at the queue.
stop stage    How far a supervisor is with stopping a train, see training.work.supervisor.
"""

from __future__ import annotations

import uuid
from enum import Enum
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone

from core.errors import UserError
from core.ownership import owner_check
from core.queue import enqueue, waiting_calls
from core.text import clean_label
from engine.schema.registry import RECIPES
from jobs.devices.launchers import LOCAL, RAY, cluster_is_set
from jobs.devices.sharing import minutes_held
from jobs.models import JobQuerySet
from jobs.queue import in_order, may_start, places_exchange, queue_insert, starts_after_check
from methods.models import TrainingMethod
from training.models import TrainQueue, TrainRun

Status = TrainRun.Status
Priority = TrainRun.Priority
FUNCTION = "training.jobs.run_train"
MOST_NOTIFICATIONS = 50
NO_LONGER_WAITING = "This train no longer waits in the queue."


class Unchanged(Enum):
    """For an argument that was not given, where None means something."""

    UNCHANGED = "unchanged"


def waiting() -> JobQuerySet[TrainRun]:
    """All waiting trains in the order of the queue."""
    return in_order(TrainRun.objects.filter(status=Status.QUEUED))


def ready() -> JobQuerySet[TrainRun]:
    """Waiting trains that need not wait for another train."""
    return waiting().filter(may_start())


def queue_positions() -> dict[int, int]:
    """{id: position} of all waiting trains, the next one at 1. Trains that a reader may not see are
    counted too."""
    ids = waiting().values_list("pk", flat=True)
    return {pk: position for position, pk in enumerate(ids, start=1)}


# Who may change how a train waits


def may_manage_queue(user: Any) -> bool:
    """Whether `user` may pause the queue and decide the order of everybody's trains."""
    return bool(user.has_perm("training.manage_queue"))


def waiting_change_check(run: TrainRun, by: User) -> None:
    """Raises PermissionDenied where `by` may not change how `run` waits."""
    if not may_manage_queue(by):
        owner_check(run, by)


def priority_check(priority: int, by: User) -> None:
    """Only those who manage the queue may let a train pass the trains of others. Raises
    UserError."""
    if priority == Priority.HIGH and not may_manage_queue(by):
        raise UserError({"priority": ["Only an operator can give a train a high priority."]})


# Within the queue


def train_move(*, run: TrainRun, by: User, to: str) -> TrainRun:
    """Move a waiting train within its priority: to the front, one up, one down, to the back.

    Those who manage the queue move it among all trains. Its owner moves it among their own trains,
    which exchange places without moving those of others. Raises UserError where it does not
    wait."""
    waiting_change_check(run, by)

    with transaction.atomic():
        trains = list(waiting().filter(priority=run.priority).select_for_update())
        if not may_manage_queue(by):
            trains = [other for other in trains if other.owner_id == run.owner_id]

        places_exchange(trains, run, to, no_longer_waiting=NO_LONGER_WAITING)

    run.refresh_from_db()
    return run


def train_wait(
    *,
    run: TrainRun,
    by: User,
    priority: int | None = None,
    starts_after: TrainRun | Unchanged | None = Unchanged.UNCHANGED,
) -> TrainRun:
    """Change how a train waits: its `priority`, and the train that has to finish before it starts
    (None: no train).

    Raises UserError where it does not wait.
    """
    waiting_change_check(run, by)
    values: dict[str, Any] = {}

    with transaction.atomic():
        if not isinstance(starts_after, Unchanged):
            starts_after_check(starts_after, run)
            values["starts_after"] = starts_after

        if priority is not None and priority != run.priority:
            priority_check(priority, by)
            run.priority = priority
            queue_insert(run)
            values["priority"] = priority
            values["place"] = run.place

        row = TrainRun.objects.filter(pk=run.pk, status=Status.QUEUED)
        if values and not row.update(**values):
            raise UserError(NO_LONGER_WAITING, code="wrong_state")

        workers_notify()

    run.refresh_from_db()
    return run


# What can run where


def device_kinds(method: TrainingMethod, parameters: dict[str, Any]) -> tuple[str, ...]:
    """The kinds of devices that can run a train: "cpu", "cuda". parameters: as they were
    validated."""
    if method.is_custom:
        return "cpu", "cuda"

    values = RECIPES[method.recipe].parameters.model_construct(**parameters)
    return ("cpu", "cuda") if values.gpu_needed() is None else ("cuda",)


# Notifying workers


def workers_notify(times: int = 1) -> None:
    """Have `times` workers of each launcher look at the queue, once the transaction is committed."""
    _notify(settings.TRAINS_QUEUE, times)
    if cluster_is_set():
        _notify(settings.CLUSTER_QUEUE, times)


def workers_notify_missing(needed: int, launcher: str = LOCAL) -> int:
    """Have `needed` notifications for a launcher's workers in Redis, which may have lost any number
    of them. Returns how many were sent."""
    queue = settings.CLUSTER_QUEUE if launcher == RAY else settings.TRAINS_QUEUE
    present = waiting_calls(queue, FUNCTION) if needed else 0
    missing = max(0, min(needed, MOST_NOTIFICATIONS) - present)
    _notify(queue, missing)

    return missing


def _notify(queue: str, times: int) -> None:
    for _ in range(times):
        enqueue(queue, FUNCTION, f"train-notification-{uuid.uuid4().hex}")


# The queue as a whole


def queue_state(host: str = "") -> TrainQueue:
    """host: of a worker, whose own answers may hold its trains; "" for the platform."""
    row = TrainQueue.objects.filter(pk=1).select_related("paused_by").first()
    state = row or TrainQueue(pk=1)
    state.answers_minutes = minutes_held(host)
    return state


def queue_pause(*, by: User, reason: str = "") -> TrainQueue:
    """Start no more trains; running ones continue. For those who manage the queue."""
    _manager_check(by)
    state = queue_state()
    if not state.paused:
        state.paused_at = timezone.now()
        state.paused_by = by

    state.reason = clean_label(reason, limit=200)
    state.save()
    return state


def queue_resume(*, by: User) -> TrainQueue:
    """Let trains start again. For those who manage the queue."""
    _manager_check(by)
    state = queue_state()
    state.paused_at = None
    state.paused_by = None
    state.reason = ""
    state.save()
    workers_notify(min(MOST_NOTIFICATIONS, waiting().count()))

    return state


def _manager_check(by: User) -> None:
    if not may_manage_queue(by):
        raise PermissionDenied
