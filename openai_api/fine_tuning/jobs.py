"""Fine-tuning jobs and their trains.

A job is there at once. Its train is there when its files are checked, which takes seconds: the
housekeeping of `watch` begins it then, or whoever asks for the job before that."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from core.errors import UserError
from datasets_app.models import Dataset
from engine.rewards.parameters import RewardChoice
from engine.rewards.registry import CUSTOM_PREFIX
from jobs.devices.presence import worker_state
from openai_api.errors import ApiProblem, missing, problem_of
from openai_api.files import problems_text
from openai_api.fine_tuning.methods import method_of, params_of
from openai_api.fine_tuning.requests import JobRequest, digest_of, job_request
from openai_api.fine_tuning.results import results_make
from openai_api.idempotency import SENT_AGAIN_SECONDS, Retry, same_body_check
from openai_api.identifiers import new_id
from openai_api.models import FineTuningJob
from serving.targets import Target
from training.models import TrainRun
from training.train.branching import Origin
from training.train.resuming import resumable_steps, train_resume
from training.train.services import train_create, train_stop

# By which people see on their pages what a program has started.
LABEL = "OpenAI API"
INVALID = {"dataset": "invalid_training_file", "evaluation_dataset": "invalid_validation_file"}
FILES = {
    "dataset": "training_file",
    "evaluation_dataset": "validation_file",
    "base_model": "model",
    "branch_step": "model",
    "rewards": "method.reinforcement.grader",
}

Ending = FineTuningJob.Ending
Status = TrainRun.Status
ENDED = (Status.FINISHED, Status.FAILED, Status.STOPPED)
# Refusals of a train that pass: too many requests, no service, a full disk.
PASSING = (429, 503, 507)

logger = logging.getLogger("deepextension.openai")


def job_create(*, user: User, body: dict[str, Any], retry: Retry) -> FineTuningJob:
    """Begin a job, or find the one that the same request has made: that of the same idempotency
    key, or where the client tries again that of the same body a moment ago. Raises ApiProblem."""
    digest = digest_of(body)
    earlier = _sent_again(user, digest, retry)
    if earlier is not None:
        return earlier

    request = job_request(body, user, device=worker_state().device_kind)

    with transaction.atomic():
        # Of two requests at once the second one sees what the first one made.
        get_user_model().objects.select_for_update().get(pk=user.pk)
        earlier = _sent_again(user, digest, retry)
        if earlier is not None:
            return earlier

        job = _job_of(request, user, retry.key)
        job.save()

    try:
        _begin(job)
    except UserError as error:
        # Nothing of a request that is refused stays.
        job.delete()
        names = FILES | params_of(job.parameters, request.choice.asked, request.choice.path)
        raise problem_of(error, names) from error

    return job


def _sent_again(user: User, digest: str, retry: Retry) -> FineTuningJob | None:
    """Raises ApiProblem for a key that another request has used."""
    jobs = FineTuningJob.objects.with_related().filter(user=user)
    if retry.key:
        job = jobs.filter(idempotency_key=retry.key).first()
        if job is not None:
            same_body_check(job.digest, digest)

        return job

    if not retry.again:
        return None

    # Of one that has ended nobody waits for the answer: it is asked for anew.
    since = timezone.now() - timedelta(seconds=SENT_AGAIN_SECONDS)
    jobs = jobs.filter(digest=digest, idempotency_key="", created_at__gte=since)
    jobs = jobs.exclude(ending__in=(Ending.FAILED, Ending.CANCELLED))
    return jobs.exclude(train__status__in=ENDED).first()


def _job_of(request: JobRequest, user: User, key: str) -> FineTuningJob:
    return FineTuningJob(
        public_id=new_id("ftjob-"),
        user=user,
        base_model=request.base_model,
        branch=request.branch.key if request.branch is not None else "",
        dataset=request.dataset,
        evaluation_dataset=request.evaluation_dataset,
        model_name=request.model_name,
        training_file=request.training_file,
        validation_file=request.validation_file,
        method=request.choice.asked,
        parameters=request.choice.parameters,
        suffix=request.suffix,
        seed=request.seed,
        metadata=request.metadata,
        digest=request.digest,
        idempotency_key=key,
    )


def _begin(job: FineTuningJob) -> None:
    """Start the train of a job whose files are checked, and fail a job whose files are bad. Does
    nothing while they are being checked. Raises UserError where the train is refused."""
    for name in ("dataset", "evaluation_dataset"):
        dataset: Dataset | None = getattr(job, name)
        if dataset is None:
            if name == "evaluation_dataset" and not job.validation_file:
                continue

            text = f"The {FILES[name].replace('_', ' ')} was deleted."
            _fail(job, INVALID[name], text, FILES[name])
            return

        if dataset.status == Dataset.Status.CHECKING:
            return
        if dataset.status != Dataset.Status.READY:
            reason = f"{dataset.error} {problems_text(dataset)}".strip()
            file = getattr(job, FILES[name])
            text = f"The job failed due to an invalid file {file}. {reason}"
            _fail(job, INVALID[name], text, FILES[name])
            return

    _train(job)


def _train(job: FineTuningJob) -> None:
    if job.base_model is None or job.user is None or job.dataset is None:
        _fail(job, "model_not_found", "The model was deleted.", "model")
        return

    _columns_check(job.parameters, job.dataset)
    run, _ = train_create(
        owner=job.user,
        name=job.suffix,
        method=method_of(job.method_kind),
        base_model=job.base_model,
        dataset=job.dataset,
        evaluation_dataset=job.evaluation_dataset,
        parameters=job.parameters,
        branch=_origin(job.branch),
        labels=[LABEL],
        # Whoever begins it at the same moment gets the same train.
        idempotency_key=job.public_id,
    )
    _train_keep(job, run, job.user)


def _train_keep(job: FineTuningJob, run: TrainRun, user: User) -> None:
    """Give a job its train, unless it was cancelled meanwhile: then nobody wants the train."""
    free = FineTuningJob.objects.filter(pk=job.pk, train=None, ending=Ending.NONE)
    if free.update(train=run):
        job.train = run
        return

    job.refresh_from_db(fields=["train", "ending", "error"])
    if job.train_id != run.pk:
        train_stop(run=run, by=user, discard=True)


def _columns_check(parameters: dict[str, Any], dataset: Dataset) -> None:
    """Raises UserError where a grader names a column that no row has: the train would end by it."""
    there = {column["name"] for column in dataset.columns}

    for choice in parameters.get("rewards") or []:
        if choice["function"].startswith(CUSTOM_PREFIX):
            continue

        named = RewardChoice.model_validate(choice).reward().columns()
        for column in sorted(named - there):
            text = f"The training file has no column {column!r}, which a grader names as item.{column}."
            raise UserError({"rewards": [text]})


def _origin(key: str) -> Origin | None:
    """Raises UserError where the train is gone."""
    if not key:
        return None

    target = Target.parse(key)
    run = TrainRun.objects.filter(pk=target.pk).select_related("base_model", "method").first()
    if run is None or target.step is None:
        raise UserError({"base_model": ["The train of this model was deleted."]})

    return Origin(run, target.step)


def _fail(job: FineTuningJob, code: str, message: str, param: str) -> None:
    error = {"code": code, "message": message, "param": param}
    waiting = FineTuningJob.objects.filter(pk=job.pk, train=None, ending=Ending.NONE)
    if waiting.update(ending=Ending.FAILED, error=error):
        job.ending, job.error = Ending.FAILED, error
    else:
        # It was cancelled, or somebody else has begun it.
        job.refresh_from_db(fields=["train", "ending", "error"])


def job_advance(job: FineTuningJob) -> FineTuningJob:
    """Begin what can begin, and keep the results of what has ended."""
    if job.train is None and job.ending == Ending.NONE:
        try:
            _begin(job)
        except UserError as error:
            if error.status in PASSING:
                logger.warning("%s waits: %s", job, error.message)
                return job

            problem = problem_of(error, FILES)
            _fail(job, problem.code or "invalid", problem.message, problem.param)
        except ApiProblem as problem:
            _fail(job, problem.code or "invalid", problem.message, problem.param)

    run = job.train
    if run is not None and run.status == Status.FINISHED and not job.results_made:
        results_make(job)

    return job


def jobs_advance() -> None:
    """For the housekeeping."""
    waiting = FineTuningJob.objects.filter(train=None, ending=Ending.NONE)
    ended = FineTuningJob.objects.filter(train__status=Status.FINISHED, results_made=False)

    for rows in (waiting, ended):
        for job in rows.with_related().select_related("user"):
            try:
                job_advance(job)
            except OSError:
                logger.exception("%s cannot go on yet", job)


def job_find(public_id: str, user: User) -> FineTuningJob:
    """Raises ApiProblem (404) where `user` has none of that id."""
    job = job_of(public_id, user)
    if job is None:
        raise missing("Fine-tuning job", public_id, param="fine_tuning_job_id")

    return job_advance(job)


def job_of(public_id: str, user: User) -> FineTuningJob | None:
    if "\x00" in public_id:
        return None

    jobs = FineTuningJob.objects.of(user).with_related().select_related("user")
    return jobs.filter(public_id=public_id).first()


def status_of(job: FineTuningJob) -> str:
    """As OpenAI's API names it. A job that is paused is queued: its clients know no other word."""
    run = job.train
    if run is None:
        match job.ending:
            case Ending.FAILED | Ending.CANCELLED:
                return str(job.ending)
            case _:
                return "validating_files"

    match run.status:
        case Status.FINISHED:
            return "succeeded"
        case Status.FAILED:
            return "failed"
        case Status.STOPPED:
            return "queued" if job.ending == Ending.PAUSED else "cancelled"
        case Status.STOPPING if job.ending == Ending.CANCELLED:
            # Nothing more will come of it.
            return "cancelled"
        case Status.QUEUED:
            return "queued"
        case _:
            return "running"


def job_cancel(job: FineTuningJob, *, by: User) -> FineTuningJob:
    """Raises ApiProblem for a job that has ended. Cancelling twice is harmless."""
    status = status_of(job)
    if status == "cancelled" and job.ending == Ending.CANCELLED:
        return job
    if status in ("succeeded", "failed", "cancelled"):
        raise _ended(job, status)

    FineTuningJob.objects.filter(pk=job.pk).exclude(ending=Ending.FAILED).update(
        ending=Ending.CANCELLED
    )
    # Read again: whoever begins its train at this moment either sees the cancelling, or is seen here.
    job.refresh_from_db(fields=["train", "ending", "error"])
    if job.ending == Ending.FAILED:
        raise _ended(job, "failed")
    if job.train is not None:
        train_stop(run=job.train, by=by, discard=True)

    return job


def job_pause(job: FineTuningJob, *, by: User) -> FineTuningJob:
    """Save and stop; it can be resumed. Raises ApiProblem for a job that has ended or not begun."""
    status = status_of(job)
    if status in ("succeeded", "failed", "cancelled"):
        raise _ended(job, status)
    if job.train is None:
        text = "The files of this job are still being checked. Pause it when that is done."
        raise ApiProblem(text, code="wrong_state")

    if job.ending != Ending.PAUSED:
        job.update(ending=Ending.PAUSED)
        train_stop(run=job.train, by=by)

    return job


def job_resume(job: FineTuningJob, *, by: User) -> FineTuningJob:
    """Raises ApiProblem for a job that is not paused, or still saves."""
    run = job.train
    if (
        run is None
        or job.ending != Ending.PAUSED
        or run.status
        not in (
            Status.STOPPED,
            Status.STOPPING,
        )
    ):
        raise ApiProblem(f"Job {job.public_id} is not paused.", code="wrong_state")
    if run.status == Status.STOPPING:
        text = "This job still saves what it has learned. Try again in a moment."
        raise ApiProblem(text, code="wrong_state")

    job.update(ending=Ending.NONE)
    try:
        # One that was paused before its first checkpoint begins anew.
        train_resume(run=run, by=by, step=None if resumable_steps(run) else 0)
    except UserError as error:
        job.update(ending=Ending.PAUSED)
        raise problem_of(error) from error

    return job


def _ended(job: FineTuningJob, status: str) -> ApiProblem:
    # 400 and not 409, which clients would try again.
    return ApiProblem(
        f"Job {job.public_id} has already {status_words(status)}.", code="wrong_state"
    )


def status_words(status: str) -> str:
    return {"cancelled": "been cancelled"}.get(status, status)
