"""What the queue calls. A job takes an id and calls a service."""

from __future__ import annotations

from rq import get_current_job

from core.jobs import queue_job


@queue_job
def run_train(*_: int) -> None:
    """A bell: whichever train is next. Bells of an earlier version carried a train's number."""
    from training.supervisor import supervise_next

    job = get_current_job()
    supervise_next((job and job.worker_name) or "")


@queue_job
def send_notices() -> None:
    from training.notices import notices_send

    notices_send()


@queue_job
def run_trial(key: str) -> None:
    from training.trial import trial_run

    trial_run(key)
