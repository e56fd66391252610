"""The one way onto the queue. The database is the truth and Redis only a bell: a bell that nobody
hears is rung again by the reconciler, so that a Redis that is away costs time and nothing else."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import django_rq
from django.conf import settings
from django.db import transaction
from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import DuplicateJobError
from rq.job import Job

from core.jobs import REGISTERED

# Workers look after their job every MONITORING_SECONDS.
MONITORING_SECONDS = 5
SILENCE = timedelta(seconds=60)

logger = logging.getLogger("deepextension.queue")


def connection() -> Redis:
    return django_rq.get_connection(settings.TRAINS_QUEUE)


def enqueue(queue: str, function: str, job_id: str, *arguments: Any) -> None:
    """Call the dotted `function` with JSON `arguments` on a worker once the transaction is
    committed.

    job_id: [A-Za-z0-9_-]+, chosen by the caller. Where a job of that id waits or runs already
    nothing is added; the remains of one that ended make room."""
    assert function in REGISTERED, f"{function} is no queue_job"
    transaction.on_commit(lambda: _ring(queue, function, job_id, *arguments))


def _ring(queue: str, function: str, job_id: str, *arguments: Any) -> None:
    bell = django_rq.get_queue(queue)
    options: dict[str, Any] = {
        "args": arguments,
        "job_id": job_id,
        "unique": True,
        "timeout": -1,
        "result_ttl": 60,
        "failure_ttl": 86_400,
    }

    try:
        try:
            bell.enqueue_call(function, **options)
        except DuplicateJobError:
            if _discard_if_ended(queue, job_id):
                bell.enqueue_call(function, **options)
    except DuplicateJobError:
        logger.debug("somebody else enqueued %s", job_id)
    except RedisError as error:
        logger.warning("queue unreachable, %s waits for the reconciler: %s", job_id, error)


def _discard_if_ended(queue: str, job_id: str) -> bool:
    job = django_rq.get_queue(queue).fetch_job(job_id)
    if job is None:
        return True

    status = job.get_status()
    if status == "queued" or (status == "started" and not _silent(job)):
        return False

    job.delete()
    return True


def _silent(job: Job) -> bool:
    """A job that runs says so every few seconds; one that has not for a while lost its worker."""
    heartbeat = job.last_heartbeat
    return heartbeat is not None and datetime.now(UTC) - heartbeat > SILENCE


def waiting_calls(queue: str, function: str) -> int:
    """How many calls of `function` nobody has answered yet; 0 where Redis cannot say."""
    try:
        bell = django_rq.get_queue(queue)
        jobs = bell.get_jobs()
    except RedisError:
        return 0

    return sum(job.func_name == function for job in jobs)
