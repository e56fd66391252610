"""Whether everything that a train needs is there: for load balancers and for scripts that wait."""

from __future__ import annotations

import logging

from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from redis.exceptions import RedisError

from core import queue
from core.store import disk_is_full
from jobs.devices.presence import is_starting, worker_state
from serving.gateway_client import gateway_answers

logger = logging.getLogger("deepextension.health")


@login_not_required
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when web, database, queue and a training worker are there, otherwise 503 and which of
    them is missing.

    `gateway` says whether models can answer; it may be away without making the platform
    unhealthy. A full disk is reported but is no 503: pages still open, and a load balancer must not keep away
    the people who can make room.
    """
    parts = {"database": database_answers(), "queue": queue_answers()}
    parts["worker"] = parts["queue"] and worker_is_there()
    is_healthy = all(parts.values())
    # Without it nobody is answered, and everything else goes on.
    parts["gateway"] = gateway_answers()
    has_room = not disk_is_full()

    if not is_healthy:
        status = "unavailable"
    elif has_room:
        status = "ok"
    else:
        status = "disk full"

    body = {"status": status, **parts, "disk": has_room}
    return JsonResponse(body, status=200 if is_healthy else 503)


def worker_is_there() -> bool:
    """Workers of a cluster are there long before one of this platform has loaded its libraries."""
    state = worker_state()
    if any(machine.is_cluster for machine in state.machines):
        has_own = not all(machine.is_cluster for machine in state.machines)
        return has_own or not is_starting()

    return state.ready


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
