"""Is everything there that a train needs? For load balancers and for scripts that wait; says
nothing else."""

from __future__ import annotations

import logging

from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from redis.exceptions import RedisError

from core import queue
from core.store import disk_is_full
from training.work.worker_state import worker_state

logger = logging.getLogger("deepextension.health")


@login_not_required
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when web, database, queue and a training worker are there, 503 and which is missing
    otherwise.

    A full disk is said and is no 503: pages still open, and a load balancer must not keep away who
    could make room."""
    parts = {"database": database_answers(), "queue": queue_answers()}
    parts["worker"] = parts["queue"] and worker_state().ready
    healthy, has_room = all(parts.values()), not disk_is_full()
    status = "unavailable" if not healthy else "ok" if has_room else "disk full"

    return JsonResponse(
        {"status": status, **parts, "disk": has_room}, status=200 if healthy else 503
    )


def database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM training_trainrun LIMIT 1")
    except DatabaseError as error:
        logger.warning("database: %s", error)
        return False

    return True


def queue_answers() -> bool:
    try:
        return bool(queue.connection().ping())
    except RedisError as error:
        logger.warning("queue: %s", error)
        return False
