"""The kinds of work that there are. Each app registers its own when it is ready; `jobs` knows none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.contrib.auth.models import User

from jobs.models import Job

# How long what has failed waits until it is tried again: where a person waits for the result, and
# where a message is to arrive although the receiver is away for hours.
SHORT_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120))
DELIVERY_PAUSES = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 360, 900))

# Whoever started work that takes so long does something else meanwhile.
WORTH_A_NOTICE = 120

# Why work ended early, as its kind learns it.
CANCELLED = "cancelled"
TOO_LONG = "too_long"
BROKE_OFF = "broke_off"

# Work that is expected to take at most this many seconds belongs to the lane.
QUICK_SECONDS = 30
NORMAL_SECONDS = 900


class NotNow(Exception):
    """What a kind's work raises where it cannot go on for a while, and nothing is wrong: it waits in
    the queue and its worker does something else. words: what it waits for, for people."""

    def __init__(self, words: str, *, seconds: float) -> None:
        super().__init__(words)
        self.words = words
        self.seconds = seconds


@dataclass(frozen=True)
class Kind:
    """A kind of work.

    title: what it is called on pages, as a noun: "Dataset check".
    run: dotted name of the function that does it, called with the job's arguments in a process of
    its own, which may be killed at any moment and started again, and which it may leave by NotNow.
    "" where workers of a device run it in a way of their own.
    ended: dotted name of the function that records on what the work is about that it ended early:
    called with the arguments and reason=CANCELLED, TOO_LONG or BROKE_OFF and limit_seconds.
    needs: modules that workers import once, so that the work starts at once in each process.
    pauses: how long it waits after each failure; it has failed for good when it fails once more.
    addresses: dotted name of the function that returns {number: page of what the job is about} of
    several jobs of the kind, by one query, without those whose page the reader may not open
    (jobs, reader). "" where there are no such pages.
    keys: dotted name of a function that returns the keys of jobs of the kind about a row that gets
    another owner; none for rows of other models. "" where such jobs do not follow their subject.
    stop: dotted name of a function that stops a job (job=, by=), where jobs.services.job_stop does
    not.
    notice: dotted name of the function that writes a notice of its end (jobs.notices.NoticeText)
    for a notice; what is known of every job, where there is none.
    notice_seconds: how long it must have run for its end to be worth a notice; None: never.
    is_listed: whether people see it on the page Jobs. Errands of the platform itself are for
    operators alone.
    keeps: whether a job that succeeded is kept. What runs every minute is not.
    """

    name: str
    title: str
    run: str = ""
    ended: str = ""
    needs: tuple[str, ...] = ()
    pauses: tuple[timedelta, ...] = SHORT_PAUSES
    addresses: str = ""
    keys: str = ""
    stop: str = ""
    notice: str = ""
    notice_seconds: float | None = None
    is_listed: bool = True
    keeps: bool = True


_kinds: dict[str, Kind] = {}


def kind_register(kind: Kind) -> None:
    _kinds[kind.name] = kind


def kinds() -> list[Kind]:
    return list(_kinds.values())


def kind_of(job: Job) -> Kind:
    return kind_of_name(job.kind)


def kind_of_name(name: str) -> Kind:
    """Of a later version's kind nothing is known but its name."""
    return _kinds.get(name) or Kind(name, name.replace("-", " ").capitalize())


def addresses_of(jobs: Iterable[Job], reader: User) -> dict[int, str]:
    """{number: the page of what the job is about}, of those that have one which this reader may
    open. One query a kind."""
    by_kind: defaultdict[Kind, list[Job]] = defaultdict(list)
    for job in jobs:
        by_kind[kind_of(job)].append(job)

    found: dict[int, str] = {}
    for kind, its_jobs in by_kind.items():
        if kind.addresses:
            found |= function_of(kind.addresses)(its_jobs, reader)

    return found


def subjects_of(jobs: Iterable[Job]) -> dict[int, Any]:
    """{number: the first argument}, which says what a job is about; without those that have none."""
    return {job.number: job.arguments[0] for job in jobs if job.arguments}


def function_of(dotted: str) -> Callable[..., Any]:
    module, _, name = dotted.rpartition(".")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def lane_for(expected_seconds: float) -> int:
    """The lane of background work that is expected to take so long."""
    if expected_seconds <= QUICK_SECONDS:
        return Job.Lane.QUICK
    if expected_seconds <= NORMAL_SECONDS:
        return Job.Lane.NORMAL

    return Job.Lane.LONG


def ended_early(job: Job, reason: str) -> None:
    """Have the job's kind record why it ended early."""
    kind = kind_of(job)
    if kind.ended:
        record = function_of(kind.ended)
        record(*job.arguments, reason=reason, limit_seconds=job.limit_seconds)
