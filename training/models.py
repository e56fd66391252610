"""Trains and what they leave: metrics, samples, checkpoints.

The life of a train, and its only writer of status, TrainRun.transition:

    queued  -> running -> finished | failed | stopped
    queued  -> stopped | failed
    running -> stopping -> stopped | finished | failed
    failed | stopped -> queued, as its next attempt
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse
from django.utils import timezone

from core.ownership import Owned, OwnedQuerySet
from core.store import runs_folder
from datasets_app.models import Dataset
from engine.schema.registry import Objective
from methods.models import TrainingMethod
from methods.services import method_objective
from models_app.models import BaseModel


class IllegalTransition(ValueError):
    """A change of status that the state machine does not have."""


class TrainRunQuerySet(OwnedQuerySet["TrainRun"]):
    def with_related(self) -> TrainRunQuerySet:
        return self.select_related(
            "owner",
            "method",
            "base_model",
            "dataset",
            "evaluation_dataset",
            "copied_from",
            "starts_after",
        ).prefetch_related("labels")

    def for_api(self) -> TrainRunQuerySet:
        """With what the API returns of a train, and no other columns of the rows it refers to:
        pages poll this every second."""
        own_columns = [field.attname for field in TrainRun._meta.concrete_fields]
        related = ("owner", "method", "base_model", "dataset", "evaluation_dataset")
        rows = self.select_related(*related).only(
            *own_columns,
            "owner__username",
            "method__slug",
            "method__recipe",
            "base_model__slug",
            "dataset__slug",
            "evaluation_dataset__slug",
        )

        return rows.prefetch_related("labels")

    def active(self) -> TrainRunQuerySet:
        return self.filter(status__in=TrainRun.ACTIVE)


class TrainRun(Owned):
    class Status(models.TextChoices):
        QUEUED = "queued", "Waiting"
        RUNNING = "running", "Running"
        STOPPING = "stopping", "Stopping"
        FINISHED = "finished", "Succeeded"
        FAILED = "failed", "Failed"
        STOPPED = "stopped", "Stopped"

    class Priority(models.IntegerChoices):
        LOW = -1, "Low"
        NORMAL = 0, "Normal"
        HIGH = 1, "High"

    ACTIVE: ClassVar = (Status.RUNNING, Status.STOPPING)
    ENDED: ClassVar = (Status.FINISHED, Status.FAILED, Status.STOPPED)
    TRANSITIONS: ClassVar = {
        Status.QUEUED: {Status.RUNNING, Status.STOPPED, Status.FAILED},
        Status.RUNNING: {Status.STOPPING, Status.FINISHED, Status.FAILED, Status.STOPPED},
        Status.STOPPING: {Status.STOPPED, Status.FINISHED, Status.FAILED},
        Status.FINISHED: set(),
        Status.FAILED: {Status.QUEUED},
        Status.STOPPED: {Status.QUEUED},
    }

    # What was asked for; never changes after the start.
    name = models.CharField(max_length=120)
    notes = models.TextField(blank=True)
    method = models.ForeignKey(TrainingMethod, models.PROTECT, related_name="trains")
    method_version = models.PositiveIntegerField(default=1)
    base_model = models.ForeignKey(BaseModel, models.PROTECT, related_name="trains")
    dataset = models.ForeignKey(Dataset, models.PROTECT, related_name="trains")
    evaluation_dataset = models.ForeignKey(
        Dataset, models.PROTECT, null=True, blank=True, related_name="evaluated_trains"
    )
    parameters = models.JSONField(help_text="Every value, defaults included.")
    defaults = models.JSONField(
        default=dict, help_text="The method's defaults on the day of the start."
    )
    system_prompt = models.TextField(blank=True)
    copied_from = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="copies"
    )
    branched_from = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="branches"
    )
    branch_step = models.BigIntegerField(
        null=True, blank=True, help_text="The step whose weights it began with."
    )
    # Null and not "": the constraint below lets any number of trains have no key.
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001

    # How it waits, see training.work.queue.
    priority = models.SmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    place = models.FloatField(
        default=0, help_text="The order in line among those of the same priority."
    )
    # The column keeps the name that the API has.
    starts_after = models.ForeignKey(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="followers",
        db_column="after_id",
        help_text="Starts once that finished.",
    )
    planned_rows = models.BigIntegerField(
        default=0, help_text="Rows that it will learn from, repeats counted."
    )

    # Where it stands. `status` is written by transition() alone.
    status = models.CharField(
        max_length=10, choices=Status.choices, default=Status.QUEUED, db_index=True
    )
    attempt = models.PositiveIntegerField(default=1)
    phase = models.CharField(max_length=30, blank=True)
    discards = models.BooleanField(default=False, help_text="Its stop saves nothing.")
    step = models.BigIntegerField(default=0)
    total_steps = models.BigIntegerField(default=0)
    epoch = models.FloatField(default=0)
    eta_seconds = models.FloatField(
        null=True, blank=True, help_text="Estimated at eta_at: how long until the end."
    )
    eta_at = models.DateTimeField(null=True, blank=True)
    eta_basis = models.CharField(
        max_length=200, blank=True, help_text="What the estimate includes, in words."
    )
    last_step_at = models.DateTimeField(
        null=True, blank=True, help_text="When the latest step was logged."
    )
    last_metrics = models.JSONField(
        default=dict, help_text="The latest value of every train metric."
    )
    last_evaluation = models.JSONField(
        default=dict, help_text="The latest value of every evaluation metric."
    )
    curve = models.JSONField(
        default=list, help_text="[[step, value of the objective]], at most 64 points, for the list."
    )
    best_value = models.FloatField(
        null=True, blank=True, help_text="The best evaluation by the method's objective."
    )
    best_step = models.BigIntegerField(null=True, blank=True)
    facts = models.JSONField(
        default=dict, help_text="What the engine said when it started: device, versions, rows."
    )
    outcome = models.JSONField(default=dict, help_text="What the engine said when it ended.")
    warnings = models.JSONField(default=list)
    events_offset = models.BigIntegerField(
        default=0, help_text="Bytes of events.jsonl already read."
    )
    last_seq = models.BigIntegerField(default=0)
    record_gaps = models.JSONField(default=list, help_text="What is missing of its events.")

    # Why it failed, in words a person can act on.
    error_code = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)
    error_advice = models.TextField(blank=True)

    # Who runs it.
    worker = models.CharField(max_length=200, blank=True)
    # The machine whose worker runs it, or ran it last.
    host = models.CharField(max_length=200, blank=True)
    process = models.CharField(
        max_length=60, blank=True, help_text="The supervisor's, see core.processes."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    resumes = models.PositiveSmallIntegerField(
        default=0, help_text="How often it resumed by itself since a person last resumed it."
    )
    earlier_seconds = models.FloatField(default=0, help_text="How long earlier attempts ran.")

    objects = TrainRunQuerySet.as_manager()

    class Meta(Owned.Meta):
        verbose_name = "train"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"], name="one_train_an_idempotency_key"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} #{self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("training:overview", args=[self.pk])

    @property
    def directory(self) -> Path:
        return runs_folder() / str(self.pk)

    @property
    def objective(self) -> Objective:
        """The metric by which this train is judged: loss, or reward."""
        return method_objective(self.method)

    @property
    def last_value(self) -> float | None:
        """The latest value of what the train is judged by."""
        value: float | None = self.last_metrics.get(self.objective.train)
        return value

    @property
    def ended(self) -> bool:
        return self.status in self.ENDED

    @property
    def seconds_left(self) -> float | None:
        """What is left of the latest estimate now, at least 0; None where there is no estimate.

        A train that stops ends sooner than was estimated, and one that waits or has ended needs no
        estimate."""
        if self.status != self.Status.RUNNING or self.eta_seconds is None:
            return None

        passed = (timezone.now() - self.eta_at).total_seconds() if self.eta_at else 0.0
        return max(0.0, self.eta_seconds - passed)

    @property
    def first_started_at(self) -> datetime | None:
        """When its first attempt began; None for a train that never ran."""
        phases = self.facts.get("phases") or []
        if self.attempt > 1 and phases:
            return datetime.fromtimestamp(phases[0][1], tz=UTC)

        return self.started_at

    def transition(self, to: Status, *, attempt: int | None = None, **values: Any) -> bool:
        """Change the status to `to` and write `values` with it, in one conditional UPDATE. Returns
        whether this caller did.

        False, with nothing written, where the status has changed since the train was read, or where
        `attempt` is no longer the train's attempt. A return to the queue begins the next attempt.
        Raises IllegalTransition for a change that the state machine does not have."""
        if to not in self.TRANSITIONS[self.Status(self.status)]:
            raise IllegalTransition(f"A train cannot go from {self.status} to {to}.")

        rows = type(self).objects.filter(pk=self.pk, status=self.status)
        if attempt is not None:
            rows = rows.filter(attempt=attempt)
        if to == self.Status.QUEUED:
            values["attempt"] = self.attempt + 1

        won = rows.update(status=to, **values) == 1
        if won:
            self.status = to
            for name, value in values.items():
                setattr(self, name, value)

        return won


class TrainLabel(models.Model):
    """A label by which people sort and find a train."""

    run = models.ForeignKey(TrainRun, models.CASCADE, related_name="labels")
    name = models.CharField(max_length=40)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint("run", Lower("name"), name="one_row_a_train_and_label")
        ]
        indexes: ClassVar = [models.Index(fields=["name"], name="trains_by_label")]

    def __str__(self) -> str:
        return self.name


class TrainListColumns(models.Model):
    """Which columns of the list of trains a person has chosen."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    columns = models.JSONField(default=list, help_text="Names of the columns that are shown.")

    def __str__(self) -> str:
        return f"{self.user}: {', '.join(self.columns)}"


class TrainQueue(models.Model):
    """The one row that says whether trains start."""

    paused_at = models.DateTimeField(null=True, blank=True)
    paused_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    reason = models.CharField(max_length=200, blank=True)

    class Meta:
        default_permissions = ()
        permissions: ClassVar = [("manage_queue", "Can pause the queue and decide its order")]

    def __str__(self) -> str:
        return "paused" if self.paused else "open"

    @property
    def paused(self) -> bool:
        return self.paused_at is not None


class Notice(models.Model):
    """A notice of how an attempt of a train ended, to one receiver; see training.work.notices."""

    class Way(models.TextChoices):
        MAIL = "mail", "E-mail"
        WEBHOOK = "webhook", "Webhook"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    run = models.ForeignKey(TrainRun, models.CASCADE, related_name="notices")
    attempt = models.PositiveIntegerField()
    status = models.CharField(max_length=10, choices=TrainRun.Status.choices)
    way = models.CharField(max_length=10, choices=Way.choices)
    tries = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering: ClassVar = ["pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["run", "attempt", "way"], name="one_notice_an_attempt_and_way"
            )
        ]

    def __str__(self) -> str:
        return f"{self.way}: {self.run_id} {self.status}"


class MetricRow(models.Model):
    """One logged step: values under TRL's own names."""

    run = models.ForeignKey(TrainRun, models.CASCADE, related_name="metrics")
    seq = models.BigIntegerField()
    step = models.BigIntegerField()
    epoch = models.FloatField(default=0)
    split = models.CharField(max_length=10, default="train", help_text="train or eval")
    time = models.FloatField(help_text="Unix seconds")
    values = models.JSONField()

    class Meta:
        ordering: ClassVar = ["seq"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "seq"], name="one_row_a_seq")
        ]
        # The few that were measured, among a million that were trained.
        indexes: ClassVar = [
            models.Index(
                fields=["run", "seq"], condition=models.Q(split="eval"), name="measured_rows"
            )
        ]


class CurveSummary(models.Model):
    """The points that a downsampled curve keeps of `size` consecutive events; see
    training.train.curve_summary."""

    run = models.ForeignKey(TrainRun, models.CASCADE, related_name="curve_summaries")
    size = models.PositiveIntegerField()
    number = models.BigIntegerField(help_text="Events number * size up to the next.")
    first_step = models.BigIntegerField()
    last_step = models.BigIntegerField()
    points = models.JSONField(help_text="{metric: [[step, epoch, time, value]]}")

    class Meta:
        db_table = "training_metricstretch"
        ordering: ClassVar = ["size", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["run", "size", "number"], name="one_stretch_a_size_and_number"
            )
        ]


class Sample(models.Model):
    """What the model said to a prompt: a held-out one before and after, or one it learned from at
    `step`."""

    run = models.ForeignKey(TrainRun, models.CASCADE, related_name="samples")
    seq = models.BigIntegerField()
    index = models.PositiveIntegerField()
    step = models.BigIntegerField(default=0)
    stage = models.CharField(max_length=10, help_text="before, after or completion")
    prompt = models.TextField()
    reference = models.TextField(blank=True)
    text = models.TextField(blank=True)
    tokens = models.PositiveIntegerField(default=0)
    stopped = models.BooleanField(
        null=True,
        help_text="Whether the answer ended by itself; false where it was cut at the longest "
        "sample answer.",
    )
    rewards = models.JSONField(
        default=dict, help_text="{function: score}, null where there was none."
    )
    advantage = models.FloatField(
        null=True,
        help_text="How much better it was than the other answers to its prompt; GRPO learns by it.",
    )

    class Meta:
        ordering: ClassVar = ["index", "seq"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "seq"], name="one_sample_a_seq")
        ]


class Checkpoint(models.Model):
    run = models.ForeignKey(TrainRun, models.CASCADE, related_name="checkpoints")
    step = models.BigIntegerField()
    epoch = models.FloatField(default=0)
    value = models.FloatField(
        null=True, blank=True, help_text="The evaluation by the method's objective."
    )
    size_bytes = models.BigIntegerField(default=0)
    time = models.FloatField()
    kept = models.BooleanField(default=True)

    class Meta:
        ordering: ClassVar = ["-step"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "step"], name="one_checkpoint_a_step")
        ]
