"""Chains: several trains as one order, each on what the one before it made.

The life of a chain, and its only writer of status, TrainOrder.transition:

    draft   -> running -> succeeded | stopped | cancelled
    stopped -> running | cancelled
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


def protect_while_it_runs(collector: Any, field: Any, stages: Any, using: str) -> None:
    """An on_delete: what a stage of a running chain stands on cannot be deleted. Others forget
    it."""
    running = {stage.chain for stage in stages if stage.chain.status == Chain.Status.RUNNING}
    if running:
        raise ProtectedError("A chain that runs stands on it.", running)

    models.SET_NULL(collector, field, stages, using)


class ChainQuerySet(OwnedQuerySet["Chain"]):
    def running(self) -> ChainQuerySet:
        return self.filter(status=Chain.Status.RUNNING)

    def with_related(self) -> ChainQuerySet:
        stages = Stage.objects.select_related(
            "method", "base_model", "dataset", "evaluation_dataset", "run__method", "model"
        )
        return self.select_related("owner", "starts_after").prefetch_related(
            models.Prefetch("stages", stages)
        )


class Chain(TrainOrder):
    """Stages that are trained one after the other, with a gate between each and the next."""

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        STOPPED = "stopped", "Stopped"
        CANCELLED = "cancelled", "Cancelled"

    TRANSITIONS: ClassVar = {
        Status.DRAFT: {Status.RUNNING},
        Status.RUNNING: {Status.SUCCEEDED, Status.STOPPED, Status.CANCELLED},
        Status.STOPPED: {Status.RUNNING, Status.CANCELLED},
        Status.SUCCEEDED: set(),
        Status.CANCELLED: set(),
    }

    UNENDED: ClassVar = (Status.RUNNING,)
    # What its stages stand on is still needed.
    OPEN: ClassVar = (Status.RUNNING, Status.STOPPED)

    name = models.CharField(max_length=120)
    # Written by transition() alone.
    status = models.CharField(
        max_length=10, choices=Status.choices, default=Status.DRAFT, db_index=True
    )
    reason = models.TextField(blank=True, help_text="Why it stopped, for people.")
    starts_after = models.ForeignKey(
        TrainRun,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="Its first train starts once that finished.",
    )
    ordered_at = models.DateTimeField(null=True, blank=True)

    objects = ChainQuerySet.as_manager()

    class Meta(TrainOrder.Meta):
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"], name="chains_one_per_idempotency_key"
            )
        ]

    def get_absolute_url(self) -> str:
        return reverse("chains:detail", args=[self.pk])

    @property
    def ended(self) -> bool:
        return not self.TRANSITIONS[self.Status(self.status)]


class Stage(models.Model):
    """One train of a chain: what it is to be made with, and what became of it."""

    class Start(models.TextChoices):
        MERGED = "merged", "A new adapter on the merged weights"
        ADAPTER = "adapter", "Carries the adapter on"

    class Gate(models.TextChoices):
        FINISHED = "finished", "It has finished"
        BETTER = "better", "Its evaluation is better than at its start"
        AT_MOST = "at_most", "A value is at most …"
        AT_LEAST = "at_least", "A value is at least …"

    chain = models.ForeignKey(Chain, models.CASCADE, related_name="stages")
    position = models.PositiveSmallIntegerField(help_text="1 for the first.")

    # What was asked for.
    name = models.CharField(max_length=120, blank=True, help_text="Of the train.")
    method = models.ForeignKey(
        TrainingMethod, protect_while_it_runs, null=True, blank=True, related_name="+"
    )
    base_model = models.ForeignKey(
        BaseModel,
        protect_while_it_runs,
        null=True,
        blank=True,
        related_name="+",
        help_text="Of the first stage; the others start from what the one before them made.",
    )
    dataset = models.ForeignKey(
        Dataset, protect_while_it_runs, null=True, blank=True, related_name="+"
    )
    evaluation_dataset = models.ForeignKey(
        Dataset, protect_while_it_runs, null=True, blank=True, related_name="+"
    )
    parameters = models.JSONField(default=dict, help_text="As they were given.")
    system_prompt = models.TextField(blank=True)
    notes = models.TextField(blank=True)
    labels = models.JSONField(default=list, blank=True)
    launcher = models.CharField(
        max_length=10,
        blank=True,
        default=ANYWHERE,
        choices=LAUNCHERS,
        help_text="Where its train may run; blank: anywhere.",
    )
    start = models.CharField(max_length=10, choices=Start.choices, default=Start.MERGED)

    # What must be so before the next stage begins.
    gate = models.CharField(max_length=10, choices=Gate.choices, default=Gate.FINISHED)
    gate_metric = models.CharField(max_length=80, blank=True)
    gate_value = models.FloatField(null=True, blank=True)

    # What became of it.
    began_at = models.DateTimeField(null=True, blank=True)
    run = models.OneToOneField(
        TrainRun, protect_while_it_runs, null=True, blank=True, related_name="stage"
    )
    model = models.ForeignKey(
        BaseModel,
        protect_while_it_runs,
        null=True,
        blank=True,
        related_name="+",
        help_text="Made of the train, for the next stage.",
    )
    measured = models.FloatField(
        null=True, blank=True, help_text="The value that its gate looked at."
    )
    measured_before = models.FloatField(
        null=True, blank=True, help_text="The same at its start, where the gate compares the two."
    )
    passed = models.BooleanField(
        null=True, help_text="Whether its gate let the chain pass; null: not asked yet."
    )
    gate_waived = models.BooleanField(
        default=False, help_text="A person let the chain go on in spite of the gate."
    )
    proof_waived = models.BooleanField(
        default=False, help_text="A person let the chain go on in spite of the proof."
    )

    class Meta:
        ordering: ClassVar = ["position", "pk"]

    def __str__(self) -> str:
        return f"stage {self.position} of {self.chain}"

    @property
    def has_begun(self) -> bool:
        return self.began_at is not None
