"""How many calls a minute a token may make. Counted in Redis for all web processes together; while
Redis is away nothing is counted and everybody is let through."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from django.http import HttpRequest
from redis.exceptions import RedisError

from core.errors import UserError
from core.queue import connection

WINDOW_SECONDS = 60

logger = logging.getLogger("deepextension.accounts")


@dataclass(frozen=True)
class Allowance:
    """limit: calls within a minute that begins with the first of them. remaining: of those, after
    this one. reset_seconds: until all are free again."""

    limit: int
    remaining: int
    reset_seconds: float


class TooManyRequests(UserError):
    """retry_after: seconds."""

    def __init__(self, allowance: Allowance) -> None:
        self.retry_after = max(1, math.ceil(allowance.reset_seconds))
        super().__init__(
            f"Rate limit reached: this token may make {allowance.limit:,} requests a minute. Try "
            f"again in {self.retry_after} s.",
            code="rate_limit_exceeded",
            status=429,
        )


def request_count(request: HttpRequest, token_id: str, limit: int) -> None:
    """Count a call. limit: 0 for no limit. What is left becomes `request.allowance`. Raises
    TooManyRequests for one too many."""
    allowance = allowance_take(token_id, limit)
    if allowance is None:
        return

    request.allowance = allowance  # type: ignore[attr-defined]
    if allowance.remaining < 0:
        request.allowance = Allowance(limit, 0, allowance.reset_seconds)  # type: ignore[attr-defined]
        raise TooManyRequests(allowance)


def allowance_take(token_id: str, limit: int) -> Allowance | None:
    """What is left after one more call: -1 or less for one too many. None where nothing is
    counted."""
    if not limit:
        return None

    key = f"deepextension:requests:{token_id}"
    try:
        steps = connection().pipeline(transaction=True)
        steps.set(key, 0, ex=WINDOW_SECONDS, nx=True)
        steps.incr(key)
        steps.pttl(key)
        _, count, milliseconds = steps.execute()
    except RedisError as error:
        logger.warning("Redis is away, requests are not counted: %s", error)
        return None

    return Allowance(limit, limit - int(count), max(0, int(milliseconds)) / 1000)
