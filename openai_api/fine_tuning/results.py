"""The metrics of an ended job as a file: step_metrics.csv, as OpenAI's API gives it."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db import IntegrityError, transaction

from openai_api.identifiers import new_id
from openai_api.models import File, FineTuningJob
from training.models import MetricRow, TrainRun

FILE_NAME = "step_metrics.csv"
# Names that programs look for; others keep ours behind train_ or valid_.
NAMES = {
    "train": {"loss": "train_loss", "mean_token_accuracy": "train_accuracy"},
    "eval": {
        "eval_loss": "valid_loss",
        "eval_mean_token_accuracy": "valid_mean_token_accuracy",
    },
}
FIRST = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


def results_make(job: FineTuningJob) -> None:
    """Write the file of a job that has succeeded, once."""
    if job.train is None or job.train.owner is None:
        return

    file = File(
        public_id=new_id("file-"),
        user=job.train.owner,
        purpose=File.Purpose.FINE_TUNE_RESULTS,
        file_name=FILE_NAME,
        size_bytes=0,
        sha256="",
    )
    path = file.own_path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(job.train, path)
    file.size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        file.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()

    try:
        with transaction.atomic():
            file.save()
            rows = FineTuningJob.objects.filter(pk=job.pk, results_made=False)
            if not rows.update(results=file, results_made=True):
                raise IntegrityError
    except IntegrityError:
        # Somebody else was faster.
        path.unlink(missing_ok=True)
        job.refresh_from_db(fields=["results", "results_made"])
        return

    job.results, job.results_made = file, True


def _write(run: TrainRun, path: Path) -> None:
    # Two passes, and not a million rows in memory.
    columns = list(FIRST)
    for values in _steps(run):
        columns += [name for name in values if name not in columns]

    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(_steps(run))
        stream.flush()
        os.fsync(stream.fileno())

    temporary.rename(path)


def _steps(run: TrainRun) -> Iterator[dict[str, Any]]:
    """The values of each step, those of its evaluation among them."""
    current: dict[str, Any] = {}
    rows = MetricRow.objects.filter(run=run).order_by("step", "seq")

    for step, split, values in rows.values_list("step", "split", "values").iterator(1000):
        if current and current["step"] != step:
            yield current
            current = {}

        current |= {"step": step} | named(split, values)

    if current:
        yield current


def named(split: str, values: dict[str, Any]) -> dict[str, Any]:
    """Values of a row under the names of OpenAI's API."""
    known = NAMES.get(split, {})
    prefix = "valid_" if split == "eval" else "train_"
    return {
        known.get(name, f"{prefix}{name.removeprefix('eval_')}"): value
        for name, value in values.items()
        if value is not None
    }
