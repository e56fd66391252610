"""The one way onto the queue. The database is the truth and Redis only a bell: a bell that nobody hears is rung
again by the reconciler, so that a Redis that is away costs time and nothing else."""

from __future__ import annotations

import logging
from typing import Any

import django_rq
from django.db import transaction
from redis.exceptions import RedisError
from rq.exceptions import DuplicateJobError

logger = logging.getLogger("deepextension.queue")


def enqueue(queue: str, function: str, job_id: str, *arguments: Any) -> None:
    """Call the dotted `function` with JSON `arguments` on a worker once the transaction is committed.

    job_id: [A-Za-z0-9_-]+, chosen by the caller; a job of that id that already waits or runs is left as it is.
    """
    transaction.on_commit(lambda: _ring(queue, function, job_id, *arguments))


def _ring(queue: str, function: str, job_id: str, *arguments: Any) -> None:
    try:
        django_rq.get_queue(queue).enqueue_call(
            function, args=arguments, job_id=job_id, unique=True, timeout=-1, result_ttl=60, failure_ttl=86_400
        )
    except DuplicateJobError:
        logger.debug("job %s is already there", job_id)
    except RedisError as error:
        logger.warning("queue unreachable, %s waits for the reconciler: %s", job_id, error)
