"""How far a job is. The work says so itself, in the process that does it."""

from __future__ import annotations

import logging
import time

from django.db import Error

from jobs.models import Job

# Seconds between two writes.
EVERY = 0.5

logger = logging.getLogger("deepextension.jobs")


class _Current:
    """The job that this process works on."""

    job: Job | None = None
    phase = ""
    written_at = 0.0


def job_is_current(job: Job) -> None:
    """From now on progress_report() is about this job."""
    _Current.job = job
    _Current.phase = ""
    _Current.written_at = 0.0


def progress_report(phase: str, progress: float | None = None) -> None:
    """Show what is being done, in words, and the share that is done, 0 to 1, where that is known.

    Nothing happens outside a job, and where the database is away: it is for display alone."""
    job = _Current.job
    now = time.monotonic()
    is_soon = now - _Current.written_at < EVERY
    if job is None or (is_soon and phase == _Current.phase):
        return

    _Current.phase = phase
    _Current.written_at = now
    share = None if progress is None else min(1.0, max(0.0, progress))
    try:
        mine = Job.objects.active().filter(number=job.number, attempt=job.attempt)
        mine.update(phase=phase[:80], progress=share)
    except Error as error:
        logger.warning("progress of job %s is not shown: %s", job.number, error)
