"""What OpenAI's API has and the platform does not: its ids, and files that are no datasets.

They are a person's own and never shared; the datasets and trains behind them are shared as ever.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q
from django.utils import timezone

from core.store import openai_folder
from datasets_app.models import Dataset
from models_app.models import BaseModel
from openai_api.inference.models import Batch, Call, StoredResponse
from training.models import TrainRun

__all__ = [
    "Batch",
    "Call",
    "File",
    "FineTuningJob",
    "StoredResponse",
    "Upload",
    "UploadPart",
]


class File(models.Model):
    """A file as programs have sent it: the id of a dataset, or a file of its own (`path`), such as
    the requests of a batch."""

    class Purpose(models.TextChoices):
        FINE_TUNE = "fine-tune", "Fine-tuning"
        FINE_TUNE_RESULTS = "fine-tune-results", "Results of fine-tuning"
        BATCH = "batch", "Requests of a batch"
        BATCH_OUTPUT = "batch_output", "Answers of a batch"
        EVALS = "evals", "Evaluation"
        USER_DATA = "user_data", "Other"

    # What people send; the others are written here.
    SENT: ClassVar = (Purpose.FINE_TUNE, Purpose.BATCH, Purpose.EVALS, Purpose.USER_DATA)

    OF_BATCHES: ClassVar = (Purpose.BATCH, Purpose.BATCH_OUTPUT)

    public_id = models.CharField(max_length=40, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    purpose = models.CharField(max_length=20, choices=Purpose.choices)
    file_name = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    # One to one: a dataset that only has an id is not used by anything.
    dataset = models.OneToOneField(
        Dataset, models.CASCADE, null=True, blank=True, related_name="openai_file"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.file_name} ({self.public_id})"

    @property
    def path(self) -> Path:
        """Where its bytes lie."""
        return self.dataset.path if self.dataset is not None else self.own_path

    @property
    def expires_after(self) -> timedelta | None:
        """As it was asked for."""
        return self.expires_at - self.created_at if self.expires_at is not None else None

    @property
    def own_path(self) -> Path:
        return openai_folder() / "files" / self.public_id


class Upload(models.Model):
    """A file that arrives in parts."""

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        COMPLETED = "completed", "Completed"
        CANCELLED = "cancelled", "Cancelled"
        EXPIRED = "expired", "Expired"

    public_id = models.CharField(max_length=40, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    purpose = models.CharField(max_length=20, choices=File.Purpose.choices)
    file_name = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField(help_text="As it was announced.")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    # Many to one: the same bytes sent twice within a moment are one file.
    file = models.ForeignKey(File, models.SET_NULL, null=True, blank=True, related_name="uploads")
    expires_after = models.DurationField(
        null=True, blank=True, help_text="How long its file is kept, once it is put together."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-id"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.file_name} ({self.public_id})"

    @property
    def folder(self) -> Path:
        """Where its parts lie."""
        return openai_folder() / "uploads" / self.public_id

    def end(self, status: Status, **values: Any) -> bool:
        """Whether it was pending until now: of two requests at once only one ends it."""
        rows = Upload.objects.filter(pk=self.pk, status=self.Status.PENDING)
        if not rows.update(status=status, **values):
            return False

        self.status = status
        for name, value in values.items():
            setattr(self, name, value)

        return True


class UploadPart(models.Model):
    """A file in its upload's folder, by its id."""

    public_id = models.CharField(max_length=40, unique=True)
    upload = models.ForeignKey(Upload, models.CASCADE, related_name="parts")
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["id"]
        default_permissions = ()

    def __str__(self) -> str:
        return self.public_id

    @property
    def path(self) -> Path:
        return self.upload.folder / self.public_id


class FineTuningJobQuerySet(models.QuerySet["FineTuningJob"]):
    def of(self, user: User) -> FineTuningJobQuerySet:
        """Those of `user`: a job goes with its train when that is handed over."""
        return self.filter(Q(train__owner=user) | Q(train=None, user=user))

    def with_related(self) -> FineTuningJobQuerySet:
        return self.select_related(
            "train__base_model",
            "train__method",
            "train__owner",
            "base_model",
            "dataset",
            "evaluation_dataset",
            "results",
        )


class FineTuningJob(models.Model):
    """A train that a program asked for, or one that waits for its files to be checked (`train` is
    None)."""

    class Ending(models.TextChoices):
        """What became of it before there was a train, or why its train was stopped."""

        NONE = "", "None"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"
        PAUSED = "paused", "Paused"

    public_id = models.CharField(max_length=40, unique=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    train = models.OneToOneField(
        TrainRun, models.CASCADE, null=True, blank=True, related_name="fine_tuning_job"
    )
    ending = models.CharField(
        max_length=10, choices=Ending.choices, default=Ending.NONE, blank=True
    )
    error = models.JSONField(default=dict, blank=True, help_text="code, message and param.")

    # What was asked for.
    base_model = models.ForeignKey(
        BaseModel, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    branch = models.CharField(
        max_length=60, blank=True, help_text="Key of the checkpoint whose weights it begins with."
    )
    dataset = models.ForeignKey(Dataset, models.SET_NULL, null=True, blank=True, related_name="+")
    evaluation_dataset = models.ForeignKey(
        Dataset, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    model_name = models.CharField(max_length=400)
    training_file = models.CharField(max_length=140)
    validation_file = models.CharField(max_length=140, blank=True)
    method = models.JSONField(help_text="As OpenAI's API has it, as it was asked for.")
    parameters = models.JSONField(default=dict, help_text="Of the train, as far as they are set.")
    suffix = models.CharField(max_length=64, blank=True)
    seed = models.BigIntegerField()
    metadata = models.JSONField(null=True, blank=True)
    digest = models.CharField(max_length=64, blank=True, help_text="Of the request.")
    idempotency_key = models.CharField(max_length=200, blank=True)
    results = models.OneToOneField(
        File, models.SET_NULL, null=True, blank=True, related_name="results_of"
    )
    results_made = models.BooleanField(
        default=False, help_text="Once: whoever deletes the file wants it gone."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = FineTuningJobQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        default_permissions = ()
        indexes: ClassVar = [models.Index(fields=["user", "digest"], name="jobs_asked_again")]

    def __str__(self) -> str:
        return self.public_id

    @property
    def method_kind(self) -> str:
        """ "supervised", "dpo" or "reinforcement"."""
        return str(self.method["type"])

    def update(self, **values: Any) -> None:
        """Write these fields alone: the housekeeping writes others at the same time."""
        FineTuningJob.objects.filter(pk=self.pk).update(**values)
        for name, value in values.items():
            setattr(self, name, value)
