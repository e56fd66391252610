"""Causes outside of a request: a full disk, a database or a queue that does not answer.

These are no bugs. The answer names the cause, as a page or as JSON, and says whether trying again
helps.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from django.db import InterfaceError, OperationalError, close_old_connections
from redis.exceptions import RedisError

RETRY_SECONDS = 10

# sqlite3 has no codes for these before Python 3.11, and Django hides them behind its own classes.
FULL_DATABASE = ("database or disk is full", "no space left on device")
# https://www.postgresql.org/docs/current/errcodes-appendix.html
DISK_FULL_STATE = "53100"
# SQLite's failures to write a file are OperationalErrors that name no cause.
WRITE_FAILED = ("disk i/o error", "unable to open database file")


@dataclass(frozen=True)
class Outage:
    """Why a request could not be served. `status` is 503 or 507."""

    status: int
    code: str
    title: str
    message: str
    retry_seconds: int | None = None


DISK_FULL = Outage(
    507,
    "no_disk_space",
    "The disk is full",
    "Nothing can be saved until there is room again. Existing data can still be read, and running "
    "trains try to continue. Delete what you do not need any more, or tell your operator.",
)
DATABASE_BUSY = Outage(
    503,
    "database_busy",
    "The database is busy",
    "Somebody else was writing for too long, so your change was not made. Try again in a moment.",
    RETRY_SECONDS,
)
DATABASE_UNAVAILABLE = Outage(
    503,
    "database_unavailable",
    "The database does not answer",
    "Running trains continue. Try again in a moment; if this persists, tell your operator.",
    RETRY_SECONDS,
)
QUEUE_UNAVAILABLE = Outage(
    503,
    "queue_unavailable",
    "The queue does not answer",
    "Running trains continue, and the queue is kept. Try again in a moment; if this persists, "
    "tell your operator.",
    RETRY_SECONDS,
)


def is_disk_full(error: BaseException) -> bool:
    """Whether this error, or one that it was raised from, says that there is no space left."""
    return any(_says_disk_full(each) for each in _chain(error))


def _says_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if isinstance(error, OperationalError):
        text = str(error).lower()
        return any(reason in text for reason in FULL_DATABASE)

    return getattr(error, "sqlstate", None) == DISK_FULL_STATE


def outage_of(error: BaseException | None) -> Outage | None:
    """The outage that caused an error; None for a bug."""
    if error is None:
        return None
    if is_disk_full(error):
        return DISK_FULL

    for each in _chain(error):
        if isinstance(each, OperationalError) and "locked" in str(each).lower():
            return DATABASE_BUSY
        if isinstance(each, InterfaceError):
            return DATABASE_UNAVAILABLE
        if isinstance(each, OperationalError) and _is_connection_lost(each):
            return DATABASE_UNAVAILABLE
        if isinstance(each, RedisError):
            return QUEUE_UNAVAILABLE

    return None


def obstacle_note(logger: logging.Logger, what: str, error: Exception) -> None:
    """Log why one of several pieces of housekeeping was not done, and let the next one begin."""
    if outage := outage_of(error):
        logger.warning("%s: %s, will look again: %s", what, outage.title.lower(), error)
    else:
        logger.error("%s failed", what, exc_info=error)

    # A database that was restarted has ended the connection: the next one needs another.
    close_old_connections()


def _is_connection_lost(error: OperationalError) -> bool:
    """An OperationalError may be a bug as well, such as a missing table."""
    text = str(error).lower()
    if any(reason in text for reason in WRITE_FAILED):
        return True

    # psycopg: class 08 is a connection's failure, 57 an operator's; none without any answer.
    cause = error.__cause__
    if type(cause).__module__.partition(".")[0] != "psycopg":
        return False

    state = getattr(cause, "sqlstate", None)
    return state is None or state[:2] in ("08", "57", "53")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised from. A chain may be a circle."""
    seen: set[int] = set()

    while error is not None:
        if id(error) in seen:
            return

        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
