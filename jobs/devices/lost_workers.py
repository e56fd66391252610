"""Workers that the database no longer hears from, while several machines share the folders of
jobs.

Such a machine may be gone, or may only be cut off from the database and still work. Two must never
write into one job's folder. So the job is declared lost first, by a mark in its folder, and starts
elsewhere only a sixth of HEARTBEAT_LIMIT_SECONDS later. A supervisor that cannot reach the database
looks for that mark and gives up within a quarter of that time."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from core.processes import process_is_alive
from jobs.models import Job

# Supervisors of other versions look for this name.
MARK = "unheard.json"


def patience_seconds() -> float:
    """How long a job has to be marked before it starts elsewhere."""
    return float(settings.HEARTBEAT_LIMIT_SECONDS) / 6


def worker_declare_lost(job: Job) -> bool:
    """Whether the mark has lain there long enough for this attempt, so that the job may start
    elsewhere. Where there is none it is written."""
    now = time.time()
    marked = _marked_at(job)
    # A mark from the future was written by a clock that has been set back since.
    if marked is not None and marked <= now:
        return now - marked >= patience_seconds()

    mark = job.directory / MARK
    unfinished = mark.with_suffix(".tmp")
    try:
        unfinished.write_text(json.dumps({"attempt": job.attempt, "time": now}))
        unfinished.replace(mark)
    except FileNotFoundError:
        # Nobody works in a folder that is not there.
        return True

    return False


def supervisor_is_alive(job: Job) -> bool:
    """By its process where it ran on this host, else by its heartbeat."""
    if job.host == socket.gethostname() and job.process:
        return process_is_alive(job.process)
    if job.heartbeat_at is None:
        return False

    limit = timedelta(seconds=settings.HEARTBEAT_LIMIT_SECONDS)
    if timezone.now() - job.heartbeat_at < limit:
        lost_mark_remove(job)
        return True

    return not worker_declare_lost(job)


def lost_mark_remove(job: Job) -> None:
    """For a job whose heartbeat has come back."""
    with contextlib.suppress(OSError):
        (job.directory / MARK).unlink(missing_ok=True)


class HeartbeatLoss:
    """The time in which a supervisor cannot reach the database, and whether it has to give up."""

    def __init__(self) -> None:
        self.marked_since: float | None = None

    def must_give_up(self, job: Job) -> bool:
        """To be asked again and again while the database is away.

        A mark that is there for a moment only does not count: whoever wrote it has just reached the
        database again, as this supervisor is about to."""
        if _marked_at(job) is None:
            self.marked_since = None
            return False

        now = time.monotonic()
        if self.marked_since is None:
            self.marked_since = now

        return now - self.marked_since >= patience_seconds() / 4


def _marked_at(job: Job) -> float | None:
    """Unix seconds at which this attempt was marked."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        mark = json.loads((job.directory / MARK).read_text())
        if mark["attempt"] == job.attempt:
            return float(mark["time"])

    return None
