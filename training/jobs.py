"""What the queue and the background workers call. A job takes an id and calls a service."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib.auth.models import User
from rq import get_current_job

from core.queue_jobs import queue_job
from jobs.models import Job


@queue_job
def run_train(*_: int) -> None:
    """A worker was notified: run whichever train is next. Notifications of an earlier version
    carried a train's number."""
    from training.work.supervisor import supervise_next

    job = get_current_job()
    supervise_next((job and job.worker_name) or "")


def run_trial(key: str) -> str:
    """Returns why the trial ended early, or nothing. What the engine itself says stands in the
    trial."""
    from training.train.trial import trial_error, trial_run

    return trial_run(key) or trial_error(key)


def trial_ended(key: str, *, reason: str, limit_seconds: float) -> None:
    from training.train.trial import trial_ended

    trial_ended(key, reason)


def train_addresses(jobs: Sequence[Job], reader: User) -> dict[int, str]:
    from training.models import TrainRun

    trains = TrainRun.objects.visible_to(reader).filter(job__in=[job.number for job in jobs])
    return {train.job_id: train.get_absolute_url() for train in trains.only("pk", "job")}


def stop_train(*, job: Job, by: User) -> None:
    from training.models import TrainRun
    from training.train.services import train_stop

    train_stop(run=TrainRun.objects.get(job=job.number), by=by)


def run_step(pk: int) -> str:
    """Returns why the step has no result, or nothing."""
    from training.train.step_trial import step_run

    return step_run(pk)


def clear_storage() -> str:
    """Returns why it could not be done, or nothing."""
    from training.work.storage_clearing import storage_clearing_run

    return storage_clearing_run()


def step_ended(pk: int, *, reason: str, limit_seconds: float) -> None:
    from training.train.step_trial import step_ended

    step_ended(pk, reason)
