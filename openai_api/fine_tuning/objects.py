"""Jobs and checkpoints as the API answers them."""

from __future__ import annotations

from typing import Any

from django.db.models import OuterRef, Subquery
from django.utils import timezone
from django.utils.text import slugify

from engine.contract.rundir import MODEL
from jobs.devices.presence import worker_state
from methods.models import TrainingMethod
from methods.services import method_defaults
from openai_api.fine_tuning.jobs import status_of
from openai_api.fine_tuning.methods import (
    METHODS,
    hyperparameters_resolved,
)
from openai_api.fine_tuning.results import named
from openai_api.identifiers import models_named, name_of_row
from openai_api.models import FineTuningJob
from serving.targets import Target
from training.models import Checkpoint, MetricRow, TrainRun

ENDED = ("succeeded", "failed", "cancelled")
# Names of a checkpoint's metrics that differ from those of the csv.
CHECKPOINT_METRICS = {"train_accuracy": "train_mean_token_accuracy"}


def job_body(job: FineTuningJob) -> dict[str, Any]:
    status = status_of(job)
    run = job.train
    resolved = hyperparameters_of(job)

    return {
        "id": job.public_id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at.timestamp()),
        "finished_at": _finished_at(job, status),
        "estimated_finish": _estimated_finish(run),
        "model": job.model_name,
        "fine_tuned_model": fine_tuned_model(job),
        "organization_id": _organisation(job),
        "result_files": [job.results.public_id] if job.results is not None else [],
        "status": status,
        "error": _error(job, status),
        "training_file": job.training_file,
        "validation_file": job.validation_file or None,
        "hyperparameters": {
            name: value
            for name, value in resolved.items()
            if name in ("n_epochs", "batch_size", "learning_rate_multiplier")
        },
        "method": _method(job, resolved),
        "trained_tokens": _trained_tokens(run) if status == "succeeded" else None,
        "integrations": [],
        "seed": job.seed,
        "metadata": job.metadata,
        "user_provided_suffix": job.suffix or None,
        "shared_with_openai": False,
        # Of ours: where people find it.
        "train": run.pk if run is not None else None,
    }


def hyperparameters_of(job: FineTuningJob) -> dict[str, Any]:
    """Resolved, of a job that waits those that it will have."""
    run = job.train
    if run is not None:
        return hyperparameters_resolved(job.method_kind, run.parameters, run.defaults)

    method = TrainingMethod.objects.get(slug=METHODS[job.method_kind])
    defaults = method_defaults(method, device=worker_state().device_kind)
    return hyperparameters_resolved(job.method_kind, defaults | job.parameters, defaults)


def _method(job: FineTuningJob, resolved: dict[str, Any]) -> dict[str, Any]:
    kind = job.method_kind
    options = {name: value for name, value in job.method[kind].items() if value is not None}
    return {"type": kind, kind: options | {"hyperparameters": resolved}}


def fine_tuned_model(job: FineTuningJob) -> str | None:
    """The name of what a job has made; None while there is nothing."""
    run = job.train
    if run is None or run.status != TrainRun.Status.FINISHED:
        return None
    if not (run.directory / MODEL).is_dir():
        return None

    return name_of_row(Target("train", run.pk), run)


def _finished_at(job: FineTuningJob, status: str) -> int | None:
    if status not in ENDED:
        return None

    run = job.train
    if run is None:
        return int(job.created_at.timestamp())

    return int((run.finished_at or timezone.now()).timestamp())


def _estimated_finish(run: TrainRun | None) -> int | None:
    seconds = run.seconds_left if run is not None else None
    return int(timezone.now().timestamp() + seconds) if seconds is not None else None


def _error(job: FineTuningJob, status: str) -> dict[str, Any] | None:
    if status != "failed":
        return None

    run = job.train
    if run is None:
        return {
            "code": job.error["code"],
            "message": job.error["message"],
            "param": job.error["param"] or None,
        }

    message = f"{run.error} {run.error_advice}".strip()
    return {"code": run.error_code or "error", "message": message, "param": None}


def _organisation(job: FineTuningJob) -> str:
    owner = job.train.owner if job.train is not None else job.user
    return f"org-{slugify(owner.get_username())}" if owner is not None else "org-platform"


def _trained_tokens(run: TrainRun | None) -> int | None:
    tokens = run.last_metrics.get("num_tokens") if run is not None else None
    return int(tokens) if tokens is not None else None


def checkpoint_bodies(job: FineTuningJob, rows: list[Checkpoint]) -> list[dict[str, Any]]:
    """These checkpoints of a job's train."""
    targets = [Target("train", row.run_id, row.step) for row in rows]
    names = models_named(targets)
    metrics = metrics_at(rows)

    return [
        {
            "id": checkpoint_id(job, row.step),
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(row.time),
            "fine_tuned_model_checkpoint": names[target.key].name,
            "fine_tuning_job_id": job.public_id,
            "metrics": metrics[row.pk],
            "step_number": row.step,
        }
        for row, target in zip(rows, targets, strict=True)
        if target.key in names
    ]


def checkpoint_id(job: FineTuningJob, step: int) -> str:
    return f"ftckpt_{job.public_id.removeprefix('ftjob-')}-{step}"


def metrics_at(checkpoints: list[Checkpoint]) -> dict[Any, dict[str, float]]:
    """{key of a checkpoint: the latest values up to its step}."""
    rows = Checkpoint.objects.filter(pk__in=[checkpoint.pk for checkpoint in checkpoints])
    rows = rows.annotate(train_values=_latest("train"), eval_values=_latest("eval"))

    return {
        pk: _metrics(step, {"train": train, "eval": evaluated})
        for pk, step, train, evaluated in rows.values_list(
            "pk", "step", "train_values", "eval_values"
        )
    }


def _latest(split: str) -> Subquery:
    rows = MetricRow.objects.filter(run=OuterRef("run"), step__lte=OuterRef("step"), split=split)
    return Subquery(rows.order_by("-seq").values("values")[:1])


def _metrics(step: int, latest: dict[str, dict[str, Any] | None]) -> dict[str, float]:
    values: dict[str, float] = {"step": step}

    for split, row in latest.items():
        for name, value in named(split, row or {}).items():
            if isinstance(value, int | float):
                values[CHECKPOINT_METRICS.get(name, name)] = value

    _full_validation(values)
    return values


def _full_validation(values: dict[str, float]) -> None:
    """Every evaluation here is one of all held-out rows."""
    for name in ("valid_loss", "valid_mean_token_accuracy"):
        if name in values:
            values[f"full_{name}"] = values[name]
