"""How background work is added to the queue, and its workers are woken up."""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from redis.exceptions import RedisError

from core.queue import connection
from core.text import clean_label
from jobs.kinds import kind_of_name, lane_for
from jobs.models import Job
from jobs.queue import queue_insert

CHANNEL = "deepextension:jobs"

Status = Job.Status

logger = logging.getLogger("deepextension.jobs")


def longest_seconds() -> int:
    """The operator's limit for any one job of the background workers."""
    return int(settings.BACKGROUND_LIMIT_MINUTES * 60)


def job_add(
    kind: str,
    *arguments: Any,
    key: str,
    name: str,
    owner_id: int | None,
    expected_seconds: float,
    limit_seconds: float | None = None,
    end_pause: bool = False,
) -> None:
    """Have a worker do this once the transaction is committed. Where a job of that key waits or
    runs already nothing is added.

    owner_id: whose turn it takes, and who may see it; None for the platform itself.
    limit_seconds: after which it is ended; the operator's limit for all jobs where it is lower, or
    where none is given.
    end_pause: whether one that waits because it has failed is tried again now.
    """
    present = Job.objects.filter(key=key, status__in=Job.OPEN)

    if present.exists():
        if end_pause and present.filter(status=Status.QUEUED).update(due_at=None):
            transaction.on_commit(wake_workers)

        return

    if not kind_of_name(kind).keeps:
        # Nobody looks at what failed each time before this one.
        for earlier in Job.objects.filter(key=key, status__in=Job.ENDED):
            earlier.forget()

    limit = min(limit_seconds or longest_seconds(), longest_seconds())
    job = Job(
        kind=kind,
        name=clean_label(name, limit=120),
        arguments=list(arguments),
        key=key,
        owner_id=owner_id,
        lane=lane_for(expected_seconds),
        limit_seconds=max(1, int(limit)),
    )
    queue_insert(job)

    try:
        with transaction.atomic():
            job.save()
    except IntegrityError:
        logger.debug("another process added %s", key)

    transaction.on_commit(wake_workers)


def wake_workers() -> None:
    """Have idle workers look at once. Without Redis they look by themselves a little later."""
    try:
        connection().publish(CHANNEL, "")
    except RedisError as error:
        logger.warning("queue unreachable, background work starts a little later: %s", error)
