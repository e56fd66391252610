"""What the queue calls. A job takes an id and calls a service."""

from __future__ import annotations

from rq import get_current_job


def run_train(run_id: int, attempt: int) -> None:
    from training.supervisor import supervise

    job = get_current_job()
    supervise(run_id, attempt, (job and job.worker_name) or "")


def run_trial(key: str) -> None:
    from training.trial import trial_run

    trial_run(key)
