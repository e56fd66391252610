"""The only way to enqueue a job. The database holds the state, and a job in Redis only notifies a
worker of it: the reconciler enqueues a lost job again, so that an outage of Redis costs time and
nothing else."""

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

from core.queue_jobs import REGISTERED

# Workers send a heartbeat for their job every MONITORING_SECONDS.
MONITORING_SECONDS = 5
HEARTBEAT_LIMIT = timedelta(seconds=60)

logger = logging.getLogger("deepextension.queue")


def connection() -> Redis:
    return django_rq.get_connection(settings.TRAINS_QUEUE)


def enqueue(queue: str, function: str, job_id: str, *arguments: Any) -> None:
    """Call the dotted `function` with JSON `arguments` on a worker once the transaction is
    committed.

    job_id: [A-Za-z0-9_-]+, chosen by the caller. Where a job of that id waits or runs already
    nothing is added; one that has ended is replaced.
    """
    assert function in REGISTERED, f"{function} is no queue_job"
    transaction.on_commit(lambda: _enqueue_now(queue, function, job_id, *arguments))


def _enqueue_now(queue: str, function: str, job_id: str, *arguments: Any) -> None:
    rq_queue = django_rq.get_queue(queue)
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
            rq_queue.enqueue_call(function, **options)
        except DuplicateJobError:
            if _discard_if_ended(queue, job_id):
                rq_queue.enqueue_call(function, **options)
    except DuplicateJobError:
        logger.debug("another process enqueued %s", job_id)
    except RedisError as error:
        logger.warning("queue unreachable, %s waits for the reconciler: %s", job_id, error)


def _discard_if_ended(queue: str, job_id: str) -> bool:
    """Delete the job, unless it waits or runs. Returns whether its id is free now."""
    job = django_rq.get_queue(queue).fetch_job(job_id)
    if job is None:
        return True

    status = job.get_status()
    if status == "queued":
        return False
    if status == "started" and not _has_lost_worker(job):
        return False

    job.delete()
    return True


def _has_lost_worker(job: Job) -> bool:
    """Whether the heartbeat of a started job has stopped."""
    heartbeat = job.last_heartbeat
    if heartbeat is None:
        return False

    return datetime.now(UTC) - heartbeat > HEARTBEAT_LIMIT


def waiting_calls(queue: str, function: str) -> int:
    """How many calls of `function` are in the queue; 0 where Redis does not answer."""
    try:
        jobs = django_rq.get_queue(queue).get_jobs()
    except RedisError:
        return 0

    return sum(job.func_name == function for job in jobs)
