"""Sweeps: one form with several values, trained as one train for each combination that is tried.

The life of a sweep, and its only writer of status, TrainOrder.transition:

    running <-> paused
    running | paused -> succeeded | stopped
    stopped -> running

Glossary:

axis          A setting that differs from train to train, with its values or its range.
trial         One combination that was chosen, and its train.
report        A value of the metric at a step, by which a pruner compares trains that still run.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import ProtectedError
from django.urls import reverse

from core.ownership import OwnedQuerySet
from datasets_app.models import Dataset
from jobs.devices.launchers import ANYWHERE, LAUNCHERS
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.models import TrainRun
from training.train.orders import TrainOrder


def protect_while_it_runs(collector: Any, field: Any, sweeps: Any, using: str) -> None:
    """An on_delete: what a sweep that runs or is paused is made of cannot be deleted. Others forget
    it."""
    active = {sweep for sweep in sweeps if sweep.status in Sweep.ACTIVE}
    if active:
        raise ProtectedError("A sweep that runs is made of it.", active)

    models.SET_NULL(collector, field, sweeps, using)


# Of a train, what no list of sweeps says.
UNREAD = (
    "notes",
    "parameters",
    "defaults",
    "system_prompt",
    "forecast",
    "last_metrics",
    "last_evaluation",
    "curve",
    "facts",
    "outcome",
    "warnings",
    "record_gaps",
)


class SweepQuerySet(OwnedQuerySet["Sweep"]):
    def active(self) -> SweepQuerySet:
        return self.filter(status__in=Sweep.ACTIVE)

    def with_related(self) -> SweepQuerySet:
        trials = Trial.objects.select_related("run__method")
        return self._with_trials(trials).select_related("starts_after")

    def listed(self) -> SweepQuerySet:
        """With what a list says of each and of its trains, of which there may be very many."""
        unread = [f"run__{name}" for name in UNREAD]
        return self._with_trials(
            Trial.objects.select_related("run").defer("reports", "marks", *unread)
        )

    def _with_trials(self, trials: models.QuerySet[Trial]) -> SweepQuerySet:
        return self.select_related(
            "owner", "method", "base_model", "dataset", "evaluation_dataset"
        ).prefetch_related(models.Prefetch("trials", trials))


class Sweep(TrainOrder):
    """What all its trains share, what differs between them, and how the next one is chosen."""

    class Status(models.TextChoices):
        RUNNING = "running", "Running"
        PAUSED = "paused", "Paused"
        SUCCEEDED = "succeeded", "Succeeded"
        STOPPED = "stopped", "Stopped"

    class Search(models.TextChoices):
        GRID = "grid", "Every combination"
        RANDOM = "random", "At random"
        TPE = "tpe", "TPE: learns from the results"

    class Pruner(models.TextChoices):
        NONE = "none", "None"
        MEDIAN = "median", "Median"
        PERCENTILE = "percentile", "Percentile"
        HALVING = "halving", "Successive halving"

    TRANSITIONS: ClassVar = {
        Status.RUNNING: {Status.PAUSED, Status.SUCCEEDED, Status.STOPPED},
        Status.PAUSED: {Status.RUNNING, Status.SUCCEEDED, Status.STOPPED},
        Status.SUCCEEDED: set(),
        Status.STOPPED: {Status.RUNNING},
    }

    # It may still ask for trains, or look at those that run.
    ACTIVE: ClassVar = (Status.RUNNING, Status.PAUSED)
    UNENDED: ClassVar = ACTIVE
    # What it is made of is still needed.
    OPEN: ClassVar = (*ACTIVE, Status.STOPPED)

    name = models.CharField(max_length=100)
    # Written by transition() alone.
    status = models.CharField(
        max_length=10, choices=Status.choices, default=Status.RUNNING, db_index=True
    )
    reason = models.TextField(blank=True, help_text="Why it stopped or ended, for people.")

    # What its trains share.
    method = models.ForeignKey(TrainingMethod, protect_while_it_runs, null=True, related_name="+")
    base_model = models.ForeignKey(BaseModel, protect_while_it_runs, null=True, related_name="+")
    dataset = models.ForeignKey(Dataset, protect_while_it_runs, null=True, related_name="+")
    evaluation_dataset = models.ForeignKey(
        Dataset, protect_while_it_runs, null=True, blank=True, related_name="+"
    )
    has_evaluation_dataset = models.BooleanField(
        default=False, help_text="Whether it was given one, which may have been deleted since."
    )
    parameters = models.JSONField(default=dict, help_text="As they were given, without the axes.")
    settled = models.JSONField(
        default=dict, help_text="Defaults when the sweep started, shared by all its trains."
    )
    method_version = models.PositiveIntegerField(
        null=True, blank=True, help_text="Of its trains; blank: whichever there is."
    )
    system_prompt = models.TextField(blank=True)
    notes = models.TextField(blank=True)
    labels = models.JSONField(default=list, blank=True)
    continue_adapter = models.BooleanField(default=False)
    start_anyway = models.BooleanField(
        default=False, help_text="Though trains cannot fit, which is for operators."
    )
    launcher = models.CharField(
        max_length=10,
        blank=True,
        default=ANYWHERE,
        choices=LAUNCHERS,
        help_text="Where its trains may run; blank: anywhere.",
    )
    starts_after = models.ForeignKey(
        TrainRun,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="Its first trains start once that finished.",
    )

    # What differs, and how the next is chosen.
    space = models.JSONField(
        help_text='{parameter: {"values": […]} or {"low", "high", "scale": "linear" or "log"}}'
    )
    metric = models.CharField(max_length=80)
    search = models.CharField(max_length=10, choices=Search.choices)
    pruner = models.CharField(max_length=10, choices=Pruner.choices, default=Pruner.NONE)
    percentile = models.PositiveSmallIntegerField(
        default=25, help_text="Of the pruner of that name: the best so many per cent go on."
    )
    budget_trains = models.PositiveIntegerField(
        help_text="At most so many trains: no more than there are combinations, and a sweep may make."
    )
    budget_asked = models.PositiveIntegerField(
        null=True, blank=True, help_text="The number of trains that was given; blank: none was."
    )
    budget_hours = models.FloatField(
        null=True, blank=True, help_text="No further train once all together ran so long."
    )
    seed = models.PositiveBigIntegerField(default=0, help_text="Of the search, not of the trains.")

    # How it stands.
    importance = models.JSONField(
        default=dict, help_text="{parameter: share}, empty with too few trains."
    )
    failures_from = models.DateTimeField(
        null=True, blank=True, help_text="Trains that failed before do not stop it again."
    )

    objects = SweepQuerySet.as_manager()

    class Meta(TrainOrder.Meta):
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"], name="sweeps_one_per_idempotency_key"
            )
        ]

    def get_absolute_url(self) -> str:
        return reverse("sweeps:detail", args=[self.pk])

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def shared_parameters(self) -> dict[str, Any]:
        """Of all its trains: what was given, and what was settled of the rest."""
        return {**self.settled, **self.parameters}


class Trial(models.Model):
    """One combination of a sweep, and what became of its train.

    Its result is kept here too, so that the search knows it when the train was deleted."""

    class State(models.TextChoices):
        OPEN = "open", "Under way"
        COMPLETE = "complete", "Succeeded"
        PRUNED = "pruned", "Pruned"
        FAILED = "failed", "Failed"
        STOPPED = "stopped", "Stopped"

    sweep = models.ForeignKey(Sweep, models.CASCADE, related_name="trials")
    number = models.PositiveIntegerField(help_text="1 for the first.")
    values = models.JSONField(help_text="{parameter: value} of this train alone.")
    run = models.OneToOneField(
        TrainRun, models.SET_NULL, null=True, blank=True, related_name="trial"
    )
    asked_at = models.DateTimeField(auto_now_add=True)
    began_at = models.DateTimeField(
        null=True, blank=True, help_text="When its train joined the queue."
    )
    ended_at = models.DateTimeField(null=True, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    reason = models.TextField(blank=True, help_text="Why it was pruned or failed, for people.")
    value = models.FloatField(null=True, blank=True, help_text="Of the sweep's metric.")
    reports = models.JSONField(default=list, help_text="[[step, value]] of the metric, once ended.")
    total_steps = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0, help_text="How long its train ran, once ended.")
    earlier_seconds = models.FloatField(
        default=0, help_text="How long trains ran that it had before this one."
    )
    judged_step = models.BigIntegerField(
        default=0, help_text="The last step at which the pruner was asked."
    )
    marks = models.JSONField(default=dict, help_text="What the pruner keeps of it.")
    is_halted = models.BooleanField(
        default=False, help_text="Stopped with its sweep: goes on when that does."
    )
    is_resumed = models.BooleanField(
        default=False, help_text="A person resumed its train, which is not pruned again."
    )

    class Meta:
        ordering: ClassVar = ["number", "pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["sweep", "number"], name="one_trial_a_sweep_and_number")
        ]

    def __str__(self) -> str:
        return f"trial {self.number} of {self.sweep}"

    @property
    def is_refused(self) -> bool:
        """Whether no train could have its values, so that there never was one. One that ran and was
        deleted has left its seconds, though it may have failed before it knew its steps."""
        was_there = self.run_id is not None or bool(self.seconds)
        return self.state == self.State.FAILED and not was_there
