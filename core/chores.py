"""Background work: dataset checks, token counts, model imports, trials of rewards, notices, mails.

The database holds what waits, in which order, and who works on it (core.models.Chore). Redis only
wakes workers up sooner; without it they look every few seconds.

People take turns, as trains do: within a lane everybody's first chore goes before anybody's second.
Lanes keep what takes seconds from waiting behind what takes hours: each worker has a lane of its
own, and helps with quicker ones while its own is empty. What was expected to be quick and is not
goes to the next lane.

What fails is tried again after a pause, and the pauses grow. What fails every time is given up: its
kind writes that down, and the row stays for operators to see.

An app registers each kind of chore that it has. This module knows none.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Max, Min, Q
from django.utils import timezone
from redis.exceptions import RedisError

from core.models import Chore
from core.processes import process_is_alive
from core.queue import connection

CHANNEL = "deepextension:chores"
# Work expected to take at most this many seconds belongs to the lane.
QUICK_SECONDS = 30
NORMAL_SECONDS = 900
# What takes much longer than was expected begins again in the next lane, where it is in nobody's
# way.
LANE_LIMITS: dict[int, float] = {
    Chore.Lane.QUICK: 2 * QUICK_SECONDS,
    Chore.Lane.NORMAL: 2 * NORMAL_SECONDS,
}
# How long what has failed waits until it is tried again: where a person waits for the result, and
# where a message is to arrive although the receiver is away for hours.
SHORT_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120))
DELIVERY_PAUSES = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 360, 900))
# How long operators can see that a chore was given up.
GIVEN_UP_KEPT = timedelta(days=30)

CANCELLED = "cancelled"
TOO_LONG = "too_long"
BROKE_OFF = "broke_off"
# Why a worker ends a chore that is to be begun again.
STOPPING = "stopping"
SLOW = "slow"

Status = Chore.Status
Lane = Chore.Lane

logger = logging.getLogger("deepextension.chores")


@dataclass(frozen=True)
class Kind:
    """A kind of background work.

    run: dotted name of the function that does it, called with the chore's arguments in a process
    of its own. It may be killed at any moment and called again.
    ended: dotted name of the function that records that the work ended early: called with the
    arguments and reason=CANCELLED, TOO_LONG or BROKE_OFF and limit_seconds.
    needs: modules that workers import once, so that the work begins at once in each process.
    pauses: how long it waits after each failure; it is given up when it fails once more.
    """

    name: str
    run: str
    ended: str
    needs: tuple[str, ...] = ()
    pauses: tuple[timedelta, ...] = SHORT_PAUSES

    @property
    def most_starts(self) -> int:
        return len(self.pauses) + 1


_kinds: dict[str, Kind] = {}


def kind_register(kind: Kind) -> None:
    _kinds[kind.name] = kind


def kinds() -> list[Kind]:
    return list(_kinds.values())


def kind_of(chore: Chore) -> Kind:
    return _kinds[chore.kind]


def function_of(dotted: str) -> Callable[..., Any]:
    module, _, name = dotted.rpartition(".")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def longest_seconds() -> int:
    """The operator's limit for any one chore."""
    return int(settings.BACKGROUND_LIMIT_MINUTES * 60)


def lane_for(expected_seconds: float) -> int:
    if expected_seconds <= QUICK_SECONDS:
        return Lane.QUICK
    if expected_seconds <= NORMAL_SECONDS:
        return Lane.NORMAL

    return Lane.LONG


def chore_add(
    kind: str,
    *arguments: Any,
    key: str,
    person: int | None,
    expected_seconds: float,
    limit_seconds: float | None = None,
    end_pause: bool = False,
) -> None:
    """Have a worker do this once the transaction is committed. Where a chore of that key waits or
    runs already nothing is added.

    limit_seconds: after which it is ended; the operator's limit for all chores where it is lower,
    or where none is given.
    end_pause: whether one that waits because it has failed is tried again now.
    """
    present = Chore.objects.filter(key=key)
    present.filter(status=Status.GIVEN_UP).delete()

    if present.exists():
        if end_pause and present.filter(status=Status.WAITING).update(due_at=None):
            transaction.on_commit(wake_workers)

        return

    lane = lane_for(expected_seconds)
    limit = min(limit_seconds or longest_seconds(), longest_seconds())
    try:
        with transaction.atomic():
            Chore.objects.create(
                key=key,
                kind=kind,
                arguments=list(arguments),
                person=person,
                lane=lane,
                turn=_next_turn(lane, person),
                limit_seconds=max(1, int(limit)),
            )
    except IntegrityError:
        logger.debug("another process added %s", key)

    transaction.on_commit(wake_workers)


def _next_turn(lane: int, person: int | None) -> int:
    """One turn after the person's last one in this lane, and never before the turn that is being
    taken: whoever comes new goes before the second chore of everybody else, and cannot catch up on
    turns of a time when they had nothing to do."""
    lane_chores = Chore.objects.filter(_not_paused(), lane=lane)
    chores = lane_chores.exclude(status=Status.GIVEN_UP)
    current: int = chores.aggregate(turn=Min("turn"))["turn"] or 0
    own: int | None = chores.filter(person=person).aggregate(turn=Max("turn"))["turn"]
    if own is None:
        return current

    return max(current, own + 1)


def _not_paused() -> Q:
    return Q(due_at=None) | Q(due_at__lte=timezone.now())


def chore_claim(lane: int, *, host: str, process: str) -> Chore | None:
    """Take the next chore of this lane, or of a quicker one where it is empty; None where nothing
    waits. host, process: who works on it, as core.processes.process_mark has it."""
    now = timezone.now()
    for served in range(lane, -1, -1):
        waiting = Chore.objects.filter(_not_paused(), status=Status.WAITING, lane=served)
        while (chore := waiting.order_by("turn", "pk").first()) is not None:
            claimed = waiting.filter(pk=chore.pk).update(
                status=Status.RUNNING,
                starts=F("starts") + 1,
                host=host,
                process=process,
                started_at=now,
                heartbeat_at=now,
            )

            if claimed:
                chore.refresh_from_db()
                return chore

    return None


def chore_cancel(key: str) -> bool:
    """End a chore that waits or runs, and have its kind record that it was cancelled. Returns False
    where there is none. One that runs is ended within about a second."""
    waiting = Chore.objects.filter(key=key, status=Status.WAITING)
    with transaction.atomic():
        chore = waiting.first()
        if chore is not None and waiting.delete()[0]:
            chore_ended(chore, CANCELLED)
            return True

    running = Chore.objects.filter(key=key, status__in=(Status.RUNNING, Status.CANCELLING))
    return bool(running.update(status=Status.CANCELLING))


def chore_drop(key: str, *, also_running: bool = True) -> None:
    """End a chore whose subject is gone, so that there is nothing to record.

    also_running: False where a running one is to notice by itself, and to clean up.
    """
    chores = Chore.objects.filter(key=key)

    if not also_running:
        chores = chores.filter(status=Status.WAITING)

    chores.delete()


def chore_ended(chore: Chore, reason: str) -> None:
    """Have the chore's kind record why it ended early."""
    ended = function_of(kind_of(chore).ended)
    ended(*chore.arguments, reason=reason, limit_seconds=chore.limit_seconds)


def chores_ahead(key: str) -> int | None:
    """How many chores of the same lane go first; None for one that does not wait."""
    chore = Chore.objects.filter(key=key, status=Status.WAITING).first()
    if chore is None:
        return None

    earlier = Q(turn__lt=chore.turn) | Q(turn=chore.turn, pk__lt=chore.pk)
    waiting = Chore.objects.filter(_not_paused(), lane=chore.lane, status=Status.WAITING)
    return waiting.filter(earlier).count()


def chores_reconcile() -> None:
    """Give back what a lost worker was at, so that another one begins it again."""
    for chore in Chore.objects.filter(status__in=(Status.RUNNING, Status.CANCELLING)):
        if worker_is_alive(chore):
            continue

        chore_give_back(chore)
        logger.warning("%s had lost its worker", chore.key)

    long_ago = timezone.now() - GIVEN_UP_KEPT
    Chore.objects.filter(status=Status.GIVEN_UP, started_at__lt=long_ago).delete()


def worker_is_alive(chore: Chore) -> bool:
    """By its process where it is on this machine, else by its heartbeat."""
    if chore.host == socket.gethostname():
        return process_is_alive(chore.process)

    silent = timedelta(seconds=settings.HEARTBEAT_LIMIT_SECONDS)
    return chore.heartbeat_at is not None and timezone.now() - chore.heartbeat_at < silent


def chore_give_back(chore: Chore, *, uncounted: bool = False) -> None:
    """Let another worker begin it again at once, unless it was to be cancelled or has been begun too
    often.

    uncounted: this start was cut short by the platform itself, and not by what the chore does.
    """
    starts = chore.starts - 1 if uncounted else chore.starts
    may_begin_again = uncounted or starts < kind_of(chore).most_starts

    if _put_back(chore, may_begin_again=may_begin_again, starts=starts):
        transaction.on_commit(wake_workers)


def chore_failed(chore: Chore, error: str) -> None:
    """Try it again after the next pause of its kind, unless it was to be cancelled; give it up where
    it has failed after all of them."""
    pauses = kind_of(chore).pauses
    error = error[: Chore._meta.get_field("error").max_length]

    if chore.starts > len(pauses):
        _put_back(chore, may_begin_again=False, error=error)
    else:
        due_at = timezone.now() + pauses[chore.starts - 1]
        _put_back(chore, may_begin_again=True, error=error, due_at=due_at)


def _put_back(chore: Chore, *, may_begin_again: bool, **values: Any) -> bool:
    """Write `values` and let it wait again, or give it up. Returns whether it waits."""
    mine = Chore.objects.filter(pk=chore.pk, process=chore.process, starts=chore.starts)
    with transaction.atomic():
        status = mine.values_list("status", flat=True).first()
        if status is None:
            return False

        if status == Status.CANCELLING:
            mine.delete()
            chore_ended(chore, CANCELLED)
            return False

        if not may_begin_again:
            mine.update(status=Status.GIVEN_UP, host="", process="", **values)
            chore_ended(chore, BROKE_OFF)
            logger.error("%s was given up after %s starts", chore.key, chore.starts)
            return False

        mine.update(status=Status.WAITING, host="", process="", **values)

    return True


def chore_move_on(chore: Chore) -> None:
    """Begin it again in the next lane: it takes longer than its lane is for."""
    mine = Chore.objects.filter(pk=chore.pk, process=chore.process, starts=chore.starts)
    lane = chore.lane + 1

    with transaction.atomic():
        turn = _next_turn(lane, chore.person)
        mine.update(lane=lane, turn=turn)
        chore.lane = lane
        chore_give_back(chore, uncounted=True)


def wake_workers() -> None:
    """Have idle workers look at once. Without Redis they look by themselves a little later."""
    try:
        connection().publish(CHANNEL, "")
    except RedisError as error:
        logger.warning("queue unreachable, background work starts a little later: %s", error)
