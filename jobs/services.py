"""Everything that changes a job, and the life of those that background workers do: dataset checks,
token counts, model imports, trials of rewards, notices, mails. Trains run in a way of their own,
see training.work.

The database holds what waits, in which order, and who works on it. Redis only wakes workers up
sooner; without it they look every few seconds.

Lanes keep what takes seconds from waiting behind what takes hours: each worker has a lane of its
own, and helps with quicker ones while its own is empty. What was expected to be quick and is not
goes to the next lane.

What fails is tried again after a pause, and the pauses grow. What fails every time has failed: its
kind writes that down, and the job says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import Error, transaction
from django.db.models import Q
from django.utils import timezone

from core.errors import UserError
from core.outages import obstacle_note
from core.ownership import deletion_check, owner_check
from jobs.adding import wake_workers
from jobs.devices.lost_workers import supervisor_is_alive
from jobs.durations import run_seconds
from jobs.kinds import (
    BROKE_OFF,
    CANCELLED,
    NORMAL_SECONDS,
    QUICK_SECONDS,
    TOO_LONG,
    ended_early,
    function_of,
    kind_of,
    kinds,
)
from jobs.models import Job, JobQuerySet
from jobs.notices import notices_create
from jobs.queue import in_order, job_position, may_start, queue_insert, waiting

# What takes much longer than was expected begins again in the next lane, where it is in nobody's
# way.
LANE_LIMITS: dict[int, float] = {
    Job.Lane.QUICK: 2 * QUICK_SECONDS,
    Job.Lane.NORMAL: 2 * NORMAL_SECONDS,
}

ERRORS = {
    CANCELLED: "It was stopped.",
    TOO_LONG: "It took longer than it may.",
    BROKE_OFF: "It broke off several times.",
}
ADVICE = {
    TOO_LONG: "An operator can allow more with DEEPEXTENSION_BACKGROUND_MINUTES.",
    BROKE_OFF: "Its log says more. Often the machine has too little memory for it.",
}

Status = Job.Status
Lane = Job.Lane

logger = logging.getLogger("deepextension.jobs")


def background() -> JobQuerySet[Job]:
    """The jobs that background workers do."""
    return Job.objects.exclude(lane=Lane.DEVICE)


# Starting


def job_claim(lane: int, *, worker: str, host: str, process: str) -> Job | None:
    """Take the next job of this lane, or of a quicker one where it is empty; None where nothing
    waits. host, process: who works on it, as core.processes.process_mark has it."""
    for served in range(lane, -1, -1):
        ready = in_order(waiting(served).filter(may_start()))
        while (job := ready.first()) is not None:
            now = timezone.now()
            claimed = job.transition(
                Status.RUNNING,
                attempt=job.attempt,
                worker=worker,
                host=host,
                process=process,
                started_at=now,
                heartbeat_at=now,
                due_at=None,
                phase="",
                progress=None,
            )

            if claimed:
                return job

    return None


def jobs_ahead(key: str) -> int | None:
    """How many jobs of the same lane go first; None for one that does not wait for its turn."""
    job = Job.objects.filter(key=key, status=Status.QUEUED).first()
    position = 0 if job is None else job_position(job)
    return position - 1 if position else None


# Ending


def job_stop(*, job: Job, by: User) -> Job:
    """Stop a job that waits or runs; one that has ended stays as it is. Its kind records that it
    was cancelled."""
    owner_check(job, by)
    kind = kind_of(job)

    if job.ended:
        return job

    if kind.stop:
        function_of(kind.stop)(job=job, by=by)
    else:
        _stop(job)

    job.refresh_from_db()
    return job


def job_cancel(key: str) -> bool:
    """End background work that waits or runs, and have its kind record that it was cancelled.
    Returns False where there is none. What runs is ended within about a second."""
    job = Job.objects.filter(key=key, status__in=Job.OPEN).first()
    return job is not None and _stop(job)


def _stop(job: Job) -> bool:
    """Whether it is stopped, or will be; False where it had ended."""
    # Again where it has changed its status meanwhile.
    for _ in range(5):
        if job.status == Status.STOPPING:
            return True
        if job.status == Status.RUNNING and job.transition(Status.STOPPING, attempt=job.attempt):
            return True
        if job.status == Status.QUEUED and job_end(job, Status.STOPPED, reason=CANCELLED):
            return True

        now = Job.objects.filter(number=job.number, status__in=Job.OPEN).first()
        if now is None:
            return False

        job = now

    return False


def job_drop(key: str, *, also_running: bool = True) -> None:
    """End a job whose subject is gone, so that there is nothing to record.

    also_running: False where a running one is to notice by itself, and to clean up.
    """
    jobs = Job.objects.filter(key=key, status__in=Job.OPEN)

    if not also_running:
        jobs = jobs.filter(status=Status.QUEUED)

    for job in jobs:
        job.forget()


def job_end(job: Job, status: Status, *, reason: str = "", error: str = "") -> bool:
    """Write how this attempt of background work ended, and have its kind record why it ended early.
    Returns whether this caller did.

    reason: CANCELLED, TOO_LONG or BROKE_OFF, or nothing for work that ended by itself. error: what
    went wrong, in words, where its kind has recorded that itself."""
    values = {"error_code": "", "error": "", "error_advice": ""}
    if status == Status.FAILED:
        values = {
            "error_code": reason or "failed",
            "error": error or ERRORS.get(reason, ""),
            "error_advice": ADVICE.get(reason, ""),
        }

    with transaction.atomic():
        ended = job.transition(
            status,
            attempt=job.attempt,
            finished_at=timezone.now(),
            process="",
            phase="",
            **values,
        )
        if ended and reason:
            _carefully(partial(ended_early, job, reason))
        if ended and reason != CANCELLED:
            _carefully(partial(notices_create, job))

    if ended and status == Status.FINISHED and not kind_of(job).keeps:
        job.forget()

    return ended


def _carefully(record: Callable[[], None]) -> None:
    """A kind that fails to record how its work ended must not keep the job from ending. Raises what
    the database raises."""
    try:
        with transaction.atomic():
            record()
    except Error:
        raise
    except Exception:
        logger.exception("the end of a job was not recorded on what it is about")


def job_delete(*, job: Job, by: User) -> None:
    """Forget a job that has ended, with its log. Raises UserError while it waits or runs."""
    deletion_check(job, by)

    if not job.ended:
        raise UserError("This job has not ended. Stop it first.", code="wrong_state")
    if job.lane == Lane.DEVICE:
        raise UserError("Delete the train itself.", code="wrong_state")

    job.forget()


# Trying again


def job_give_back(job: Job, *, uncounted: bool = False) -> bool:
    """Let another worker begin it again at once, unless it was to be stopped or has been begun too
    often. Returns whether this caller wrote that.

    uncounted: this start was cut short by the platform itself, and not by what the job does.
    """
    if uncounted:
        return _queue_again(job)
    if job.resumes >= len(kind_of(job).pauses):
        return _give_up(job, job.error)

    return _queue_again(job, resumes=job.resumes + 1)


def jobs_give_back_unknown(*, host: str, process: str) -> None:
    """For a worker that is idle: give back what the database says it works on. The answer to its
    claim was lost, so that it never learned of it."""
    for job in background().active().filter(host=host, process=process):
        if job_give_back(job, uncounted=True):
            logger.warning("%s was claimed by a worker that did not learn of it", job.key)


def job_put_off(job: Job, seconds: float, words: str) -> bool:
    """Begin it again after so long, where it stood in line: it could not go on, and nothing was
    wrong (jobs.kinds.NotNow). Returns whether this caller wrote that."""
    return _queue_again(
        job,
        keeps_place=True,
        due_at=timezone.now() + timedelta(seconds=seconds),
        phase=words[:80],
        # Of an attempt that failed before this one.
        error_code="",
        error="",
        error_advice="",
    )


def job_failed(job: Job, error: str) -> bool:
    """Try it again after the next pause of its kind, unless it was to be stopped; give it up where
    it has failed after all of them. Returns whether this caller wrote that."""
    pauses = kind_of(job).pauses

    if job.resumes >= len(pauses):
        return _give_up(job, error)

    return _queue_again(
        job,
        resumes=job.resumes + 1,
        error_code="failed",
        error=error,
        due_at=timezone.now() + pauses[job.resumes],
    )


def job_move_on(job: Job) -> bool:
    """Begin it again in the next lane: it takes longer than its lane is for. Returns whether this
    caller wrote that."""
    return _queue_again(job, lane=Lane(job.lane + 1))


def _give_up(job: Job, error: str) -> bool:
    if job.status == Status.STOPPING:
        return job_end(job, Status.STOPPED, reason=CANCELLED)

    ended = job_end(job, Status.FAILED, reason=BROKE_OFF, error=error)
    if ended:
        logger.error("%s was given up after %s attempts", job.key, job.attempt)

    return ended


def _queue_again(job: Job, *, keeps_place: bool = False, **values: Any) -> bool:
    """The next attempt of a job that runs; or its end, where it was to be stopped."""
    if job.status == Status.STOPPING:
        return job_end(job, Status.STOPPED, reason=CANCELLED)

    waits = {
        "host": "",
        "process": "",
        "worker": "",
        "phase": "",
        "progress": None,
        "earlier_seconds": run_seconds(job) or 0,
        "started_at": None,
    }

    with transaction.atomic():
        # Through its end, as every attempt: the state machine knows no shorter way.
        if not job.transition(Status.FAILED, attempt=job.attempt):
            return False

        job.lane = values.get("lane", job.lane)
        if not keeps_place:
            queue_insert(job, first="lane" not in values)

        waits_again = job.transition(Status.QUEUED, place=job.place, **waits | values)
        transaction.on_commit(wake_workers)

    return waits_again


# Housekeeping


def jobs_follow(subject: Any, earlier: User | None, owner: User) -> None:
    """What waits or runs for something is done for whoever has that now, whoever was the earlier
    one."""
    for kind in kinds():
        if kind.keys:
            keys = function_of(kind.keys)(subject)
            Job.objects.filter(key__in=keys, status__in=Job.OPEN).update(owner=owner)


def jobs_reconcile() -> None:
    """Give back what a lost worker was at, so that another one begins it again; forget what ended
    long ago."""
    for job in background().active():
        # One whose folder cannot be written must not hold up the others.
        try:
            _give_back_if_lost(job)
        except Exception as error:
            obstacle_note(logger, job.key or job.kind, error)

    _forget_old()


def _give_back_if_lost(job: Job) -> None:
    if not supervisor_is_alive(job) and job_give_back(job):
        logger.warning("%s had lost its worker", job.key)


def _forget_old() -> None:
    long_ago = timezone.now() - timedelta(days=settings.JOBS_KEPT_DAYS)
    old = Q(finished_at__lt=long_ago, status__in=Job.ENDED)
    for job in background().filter(old):
        job.forget()
