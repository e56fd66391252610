"""The line of waiting trains: who is next, who may move whom, and which worker takes what.

The database holds the order. A job in Redis is a bell without a name: whoever answers one claims
the first train of the line that its device can run, so nothing is ever reordered inside Redis, and
a bell too many finds nothing to do."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Min, Q
from django.utils import timezone

from core.errors import UserError
from core.ownership import owner_check
from core.queue import enqueue, waiting_calls
from core.text import clean_label
from engine.schema.registry import RECIPES
from training.models import TrainQueue, TrainRun, TrainRunQuerySet

Status = TrainRun.Status
Priority = TrainRun.Priority
FUNCTION = "training.jobs.run_train"
MOVES = ("front", "up", "down", "back")
MOST_BELLS = 50


def waiting() -> TrainRunQuerySet:
    """Everybody in line, the next one first."""
    return TrainRun.objects.filter(status=Status.QUEUED).order_by("-priority", "place", "pk")


def ready() -> TrainRunQuerySet:
    """Those in line who wait for no other train."""
    return waiting().filter(Q(after=None) | Q(after__status=Status.FINISHED))


def queue_places() -> dict[int, int]:
    """{id: place in line} of all who wait, the next at 1. Places count strangers' trains too."""
    return {pk: place for place, pk in enumerate(waiting().values_list("pk", flat=True), start=1)}


def queue_position(run: TrainRun) -> int:
    """1 for the next train to start; 0 for one that does not wait."""
    if run.status != Status.QUEUED:
        return 0

    ahead = Q(priority__gt=run.priority) | Q(priority=run.priority) & (
        Q(place__lt=run.place) | Q(place=run.place, pk__lt=run.pk)
    )
    return TrainRun.objects.filter(ahead, status=Status.QUEUED).count() + 1


# Into the line


def line_up(run: TrainRun, *, first: bool = False) -> None:
    """Give a train that is about to wait its place; saves nothing.

    Fair share: in each priority people take turns. A train's turn is the number of its owner's
    trains that run or stand before it, and it goes before the first train of a later turn: twenty
    trains of one person stand behind the first of another. `first`: to the head of its priority,
    for one that ran already and lost its worker."""
    others = waiting().filter(priority=run.priority).exclude(pk=run.pk)

    if first:
        least = others.aggregate(least=Min("place"))["least"]
        run.place = 0.0 if least is None else least - 1
        return

    turns: Counter[int | None] = Counter(TrainRun.objects.active().values_list("owner", flat=True))
    turns.update(waiting().filter(priority__gt=run.priority).values_list("owner", flat=True))
    line = list(others.values_list("owner", "place"))
    mine = turns[run.owner_id] + sum(owner == run.owner_id for owner, _ in line)
    before: float | None = None

    for owner, place in line:
        if owner != run.owner_id and turns[owner] > mine:
            run.place = place - 1 if before is None else (before + place) / 2
            return

        turns[owner] += 1
        before = place

    run.place = 0.0 if before is None else before + 1


def after_check(after: TrainRun | None, run: TrainRun | None = None) -> None:
    """Whether `run`, or a new train, can wait for `after`. Raises UserError where it never would
    begin."""
    seen = {run.pk} if run is not None else set()
    while after is not None:
        if after.pk in seen:
            raise UserError({"after": ["These trains would wait for each other."]})

        if after.status in (Status.FAILED, Status.STOPPED):
            raise UserError(
                {
                    "after": [
                        f"{after.name} #{after.pk} has ended without success. Choose another train."
                    ]
                }
            )

        seen.add(after.pk)
        after = after.after if after.status == Status.QUEUED else None


def may_manage_queue(user: Any) -> bool:
    """Whether somebody may pause the queue and decide the order of everybody's trains."""
    return bool(user.has_perm("training.manage_queue"))


def waiting_change_check(run: TrainRun, by: User) -> None:
    """Raises PermissionDenied where `by` may not change how `run` waits."""
    if not may_manage_queue(by):
        owner_check(run, by)


def priority_check(priority: int, by: User) -> None:
    """Only those who manage the queue let a train pass the trains of others. Raises UserError."""
    if priority == Priority.HIGH and not may_manage_queue(by):
        raise UserError({"priority": ["Only an operator can give a train a high priority."]})


# Within the line


def train_move(*, run: TrainRun, by: User, to: str) -> TrainRun:
    """Move a waiting train within its priority: to the front, one up, one down, to the back.

    Those who manage the queue move it among all; its owner among the owner's own trains, which swap
    their places and nobody else's. Raises UserError where it does not wait."""
    waiting_change_check(run, by)

    if to not in MOVES:
        raise UserError({"to": [f"Give one of {', '.join(MOVES)}."]})

    with transaction.atomic():
        line = list(waiting().filter(priority=run.priority).select_for_update())
        if not may_manage_queue(by):
            line = [other for other in line if other.owner_id == run.owner_id]

        where = next((index for index, other in enumerate(line) if other.pk == run.pk), None)
        if where is None:
            raise UserError("This train does not wait in line any more.", code="wrong_state")

        places = _apart([other.place for other in line])
        line.insert(
            {"front": 0, "up": max(0, where - 1), "down": where + 1, "back": len(line)}[to],
            line.pop(where),
        )

        for other, place in zip(line, places, strict=True):
            if other.place != place:
                TrainRun.objects.filter(pk=other.pk).update(place=place)

    run.refresh_from_db()
    return run


def _apart(places: list[float]) -> list[float]:
    """The same places in order, none equal to the one before."""
    found: list[float] = []
    for place in places:
        found.append(place if not found or place > found[-1] else found[-1] + 1e-6)

    return found


def train_wait(
    *, run: TrainRun, by: User, priority: int | None = None, **after: TrainRun | None
) -> TrainRun:
    """Change how a train waits: its `priority`, and `after` which other train it starts (None:
    after none).

    Raises UserError where it does not wait.
    """
    waiting_change_check(run, by)
    with transaction.atomic():
        values: dict[str, Any] = dict(after)
        if after:
            after_check(after["after"], run)

        if priority is not None and priority != run.priority:
            priority_check(priority, by)
            run.priority = priority
            line_up(run)
            values |= {"priority": priority, "place": run.place}

        if values and not TrainRun.objects.filter(pk=run.pk, status=Status.QUEUED).update(**values):
            raise UserError("This train does not wait in line any more.", code="wrong_state")

        ring()

    run.refresh_from_db()
    return run


# Out of the line


def claim(device: str, **values: Any) -> TrainRun | None:
    """Take the first train that this device can run and write `values` with its start; None where
    there is none.

    device: "cpu" or "cuda".
    """
    while not queue_state().paused:
        run = next((run for run in ready().select_related("method") if runs_on(run, device)), None)
        if run is None:
            return None
        if run.transition(Status.RUNNING, attempt=run.attempt, **values):
            return run

    return None


def runs_on(run: TrainRun, device: str) -> bool:
    if device != "cpu" or run.method.is_custom:
        return True

    # The values were validated when the train was started.
    return (
        RECIPES[run.method.recipe].parameters.model_construct(**run.parameters).gpu_needed() is None
    )


# Bells


def ring(times: int = 1) -> None:
    """Tell `times` workers to look at the line, once the transaction is committed."""
    for _ in range(times):
        enqueue(settings.TRAINS_QUEUE, FUNCTION, f"train-bell-{uuid.uuid4().hex}")


def bells_complete(devices: Iterable[str]) -> int:
    """Ring once more for every waiting train that one of `devices` could run and no bell rings for.
    Returns how often: Redis may have lost any number of them."""
    if queue_state().paused:
        return 0

    kinds = set(devices)
    fitting = (
        run for run in ready().select_related("method") if any(runs_on(run, kind) for kind in kinds)
    )
    missing = max(
        0,
        sum(1 for _ in islice(fitting, MOST_BELLS))
        - waiting_calls(settings.TRAINS_QUEUE, FUNCTION),
    )

    ring(missing)

    return missing


# The line as a whole


def queue_state() -> TrainQueue:
    return TrainQueue.objects.filter(pk=1).select_related("paused_by").first() or TrainQueue(pk=1)


def queue_pause(*, by: User, reason: str = "") -> TrainQueue:
    """Nothing starts any more; what runs goes on. For those who manage the queue."""
    _manager_check(by)
    state = queue_state()
    if not state.paused:
        state.paused_at, state.paused_by = timezone.now(), by

    state.reason = clean_label(reason, limit=200)
    state.save()
    return state


def queue_resume(*, by: User) -> TrainQueue:
    """Trains start again. For those who manage the queue."""
    _manager_check(by)
    state = queue_state()
    state.paused_at, state.paused_by, state.reason = None, None, ""
    state.save()
    ring(min(MOST_BELLS, waiting().count()))

    return state


def _manager_check(by: User) -> None:
    if not may_manage_queue(by):
        raise PermissionDenied
