"""How long a job took."""

from __future__ import annotations

from django.utils import timezone

from jobs.models import Job


def run_seconds(job: Job) -> float | None:
    """How long it has run or ran, all attempts together; None for one that never started."""
    if job.started_at is None:
        return job.earlier_seconds or None

    end = job.finished_at or timezone.now()
    return job.earlier_seconds + (end - job.started_at).total_seconds()
