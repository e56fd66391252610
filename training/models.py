"""Trains and what they leave: metrics, samples, checkpoints."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse
from django.utils import timezone

from core.ownership import Owned
from core.store import runs_folder
from datasets_app.models import Dataset
from engine.contract.rundir import LOG
from engine.schema.registry import Objective
from jobs.devices.launchers import ANYWHERE, LAUNCHERS, LOCAL, RAY
from jobs.models import Job, JobQuerySet
from methods.models import TrainingMethod
from methods.services import method_objective
from models_app.models import BaseModel

# The kind of job, see jobs.kinds.
TRAIN = "train"


def width_of(method: TrainingMethod, parameters: dict[str, Any]) -> int:
    """On how many devices of one machine a train with these parameters runs."""
    return 1 if method.is_custom else int(parameters.get("devices", 1))


class TrainRunQuerySet(JobQuerySet["TrainRun"]):
    def with_related(self) -> TrainRunQuerySet:
        return self.select_related(
            "owner",
            "method",
            "base_model",
            "dataset",
            "evaluation_dataset",
            "copied_from",
            "starts_after__trainrun",
        ).prefetch_related("labels")

    def for_api(self) -> TrainRunQuerySet:
        """With what the API returns of a train, and no other columns of the rows it refers to:
        pages poll this every second."""
        own_columns = [field.attname for field in TrainRun._meta.concrete_fields]
        related = ("owner", "method", "base_model", "dataset", "evaluation_dataset")
        rows = self.select_related(*related, "starts_after__trainrun").only(
            *own_columns,
            "starts_after__trainrun__id",
            "owner__username",
            "method__slug",
            "method__recipe",
            "base_model__slug",
            "dataset__slug",
            "evaluation_dataset__slug",
        )

        return rows.prefetch_related("labels")


class TrainRun(Job):
    """A job that trains: what was asked for, and what was learned."""

    id = models.BigAutoField(primary_key=True)
    job = models.OneToOneField(Job, models.CASCADE, parent_link=True, related_name="trainrun")

    # What was asked for; never changes after the start.
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
    continue_adapter = models.BooleanField(
        default=False,
        help_text="Whether it carries the base model's adapter on, in place of a new one on its "
        "merged weights.",
    )
    forecast = models.JSONField(
        default=dict,
        help_text="What was forecast of its memory when it was started: training.train.forecast.",
    )
    started_anyway = models.BooleanField(
        default=False,
        help_text="An operator started it although the forecast says that it cannot fit.",
    )
    launcher = models.CharField(
        max_length=10,
        blank=True,
        default=ANYWHERE,
        choices={ANYWHERE: "Anywhere"} | LAUNCHERS,
        help_text="Where it may run: local, ray, or blank for anywhere.",
    )
    planned_rows = models.BigIntegerField(
        default=0, help_text="Rows that it will learn from, repeats counted."
    )

    # Where it stands.
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
    last_seq = models.BigIntegerField(default=0)
    record_gaps = models.JSONField(default=list, help_text="What is missing of its events.")

    objects = TrainRunQuerySet.as_manager()  # type: ignore[misc]

    class Meta(Owned.Meta):
        verbose_name = "train"
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} #{self.pk}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.kind = TRAIN
        super().save(*args, **kwargs)

    def get_absolute_url(self) -> str:
        return reverse("training:overview", args=[self.pk])

    @property
    def directory(self) -> Path:
        return runs_folder() / str(self.pk)

    @property
    def log_path(self) -> Path:
        return self.directory / LOG

    @property
    def predecessor(self) -> TrainRun | None:
        """The train that has to finish before this one starts."""
        run: TrainRun | None = self.starts_after.trainrun if self.starts_after else None
        return run

    @property
    def width(self) -> int:
        """On how many devices of one machine it runs."""
        return width_of(self.method, self.parameters)

    @property
    def launcher_now(self) -> str:
        """Where its next attempt may run. One that ran on a cluster resumes there, where what is left
        of its last attempt is ended before the next begins. A custom program runs on machines of this
        platform."""
        if self.method.is_custom:
            return LOCAL

        return RAY if self.cluster else self.launcher

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
    # Not stored: training.work.queue.queue_state knows it.
    answers_minutes = 0

    class Meta:
        default_permissions = ()
        permissions: ClassVar = [("manage_queue", "Can pause the queue and decide its order")]

    def __str__(self) -> str:
        return "paused" if self.paused else "open"

    @property
    def paused(self) -> bool:
        return self.paused_at is not None

    @property
    def holds(self) -> bool:
        """Whether no train starts now: it is paused, or trains wait until nobody has asked a model
        for `answers_minutes`."""
        return self.paused or self.answers_minutes > 0


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


class StepMeasurement(models.Model):
    """What one step of a configuration took on a worker, tried before any train of it
    (training.train.step_trial). Forecasts are corrected by it."""

    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    method = models.ForeignKey(TrainingMethod, models.CASCADE, related_name="+")
    base_model = models.ForeignKey(BaseModel, models.CASCADE, related_name="+")
    dataset = models.ForeignKey(Dataset, models.SET_NULL, null=True, related_name="+")
    parameters = models.JSONField(help_text="Every value, defaults included.")
    batch = models.JSONField(
        help_text="{rows, tokens, longest, answer} of the batch, as engine.forecast.batches has it."
    )
    device = models.JSONField(default=dict, help_text="As the engine detected it.")
    peak_bytes = models.BigIntegerField(null=True, blank=True)
    step_seconds = models.FloatField(
        null=True, blank=True, help_text="Null where a train ran beside it, which slows a step."
    )
    error = models.TextField(blank=True, help_text="Why there is no result, in words for people.")
    created_at = models.DateTimeField(auto_now_add=True)
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["base_model", "method"], name="steps_by_model_and_method")
        ]

    def __str__(self) -> str:
        return f"One step of {self.method} on {self.base_model}"


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
