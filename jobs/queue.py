"""The order in which jobs start, the same for every lane.

Glossary:

lane          What a job waits for: a device, or a background worker for work of about its length.
place         The number in the database by which jobs of one lane and priority are ordered.
position      What people see: 1 for the job that starts next in its lane, over all priorities. One
              that pauses has none.
turn          How many jobs of the same owner run or wait in front; fair share orders by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Min, Q
from django.utils import timezone

from core.errors import UserError
from core.ownership import has_right, is_owner, owner_check
from jobs.models import Job, JobQuerySet

MOVES = ("front", "up", "down", "back")

Status = Job.Status
J = TypeVar("J", bound=Job)


def waiting(lane: int) -> JobQuerySet[Job]:
    """All waiting jobs of a lane in the order of the queue."""
    return in_order(Job.objects.filter(status=Status.QUEUED, lane=lane))


def in_order(rows: JobQuerySet[J]) -> JobQuerySet[J]:
    return rows.order_by("-priority", "place", "number")


def may_start() -> Q:
    """Waits for a worker only: for no other job, and not for the end of a pause."""
    waits_for_none = Q(starts_after=None) | Q(starts_after__status=Status.FINISHED)
    return waits_for_none & is_due()


def is_due() -> Q:
    return Q(due_at=None) | Q(due_at__lte=timezone.now())


def is_paused(job: Job) -> bool:
    """Whether it waits for a time, and not for its turn."""
    is_early = job.due_at is not None and job.due_at > timezone.now()
    return job.status == Status.QUEUED and is_early


def job_position(job: Job) -> int:
    """1 for the next job of its lane; 0 for one that does not wait, or pauses."""
    if job.status != Status.QUEUED or is_paused(job):
        return 0

    before_in_priority = Q(place__lt=job.place) | Q(place=job.place, number__lt=job.number)
    ahead = Q(priority__gt=job.priority) | Q(priority=job.priority) & before_in_priority
    return waiting(job.lane).filter(is_due(), ahead).count() + 1


def queue_insert(job: Job, *, first: bool = False) -> None:
    """Set the place of a job that is about to wait; saves nothing.

    Fair share: within each lane and priority people take turns. A job's turn is the number of its
    owner's jobs that run or wait in front of it, and it goes before the first job of a later turn:
    twenty trains of one person wait behind the first of another. It goes behind a job that gathers
    devices, which those that come later could else put off for ever. `first`: to the front of its
    priority, for a job that ran already and lost its worker."""
    others = waiting(job.lane).filter(is_due(), priority=job.priority).exclude(number=job.number)

    if first:
        least = others.aggregate(least=Min("place"))["least"]
        job.place = 0.0 if least is None else least - 1
    else:
        job.place = _fair_place(job, list(others.values_list("owner", "place", "gathers_on")))


def _fair_place(job: Job, others: list[tuple[int | None, float, str]]) -> float:
    """others: (owner, place, machine on which it gathers) of the waiting jobs of the same lane and
    priority, in order."""
    active = Job.objects.active().filter(lane=job.lane)
    higher_priority = waiting(job.lane).filter(priority__gt=job.priority)

    turns: Counter[int | None] = Counter()
    turns.update(active.values_list("owner", flat=True))
    turns.update(higher_priority.values_list("owner", flat=True))

    own_waiting = [owner for owner, _, _ in others if owner == job.owner_id]
    own_turn = turns[job.owner_id] + len(own_waiting)
    previous: float | None = None
    gathering = [index for index, (_, _, machine) in enumerate(others) if machine]
    first = gathering[-1] + 1 if gathering else 0

    for index, (owner, place, _) in enumerate(others):
        if index >= first and owner != job.owner_id and turns[owner] > own_turn:
            # Between the two, or in front of all.
            return place - 1 if previous is None else (previous + place) / 2

        turns[owner] += 1
        previous = place

    return 0.0 if previous is None else previous + 1


def starts_after_check(predecessor: Job | None, job: Job | None = None) -> None:
    """Whether `job`, or a new one, can wait for `predecessor`. Raises UserError where it would
    never start."""
    seen = {job.number} if job is not None else set()

    while predecessor is not None:
        if predecessor.number in seen:
            raise UserError({"after": ["These trains would wait for each other."]})

        if predecessor.status in (Status.FAILED, Status.STOPPED):
            message = f"{predecessor} has ended without success. Choose another train."
            raise UserError({"after": [message]})

        seen.add(predecessor.number)
        is_waiting = predecessor.status == Status.QUEUED
        predecessor = predecessor.starts_after if is_waiting else None


def job_move(*, job: Job, by: User, to: str) -> Job:
    """Move a waiting job within its lane and priority, see `places_exchange`.

    Those who may change everybody's jobs move it among all, its owner among their own. Raises
    UserError where it does not wait."""
    owner_check(job, by)
    among_all = has_right(by, "change", Job)

    with transaction.atomic():
        jobs = list(waiting(job.lane).filter(priority=job.priority).select_for_update())
        if not among_all:
            jobs = [other for other in jobs if is_owner(other, by)]

        places_exchange(jobs, job, to, no_longer_waiting="This job no longer waits.")

    job.refresh_from_db()
    return job


def places_exchange(jobs: list[J], job: J, to: str, *, no_longer_waiting: str) -> None:
    """Move one of `jobs`, all that may exchange places, in order: to the front, one up, one down,
    to the back. Those of others stay where they are. Raises UserError."""
    if to not in MOVES:
        raise UserError({"to": [f"Give one of {', '.join(MOVES)}."]})

    numbers = [other.number for other in jobs]
    if job.number not in numbers:
        raise UserError(no_longer_waiting, code="wrong_state")

    places = _strictly_rising([other.place for other in jobs])
    index = numbers.index(job.number)
    targets = {
        "front": 0,
        "up": max(0, index - 1),
        "down": index + 1,
        "back": len(jobs),
    }
    jobs.insert(targets[to], jobs.pop(index))

    for other, place in zip(jobs, places, strict=True):
        if other.place != place:
            Job.objects.filter(number=other.number).update(place=place)


def _strictly_rising(places: Sequence[float]) -> list[float]:
    """The same places in order, none equal to the one before."""
    rising: list[float] = []
    for place in places:
        if rising and place <= rising[-1]:
            place = rising[-1] + 1e-6

        rising.append(place)

    return rising
