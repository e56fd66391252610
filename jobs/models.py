"""Whatever waits for a worker, runs and ends: trains, dataset checks, token counts, model imports …

The life of a job, and its only writer of status, Job.transition:

    queued  -> running -> finished | failed | stopped
    queued  -> stopped | failed
    running -> stopping -> stopped | finished | failed
    failed | stopped -> queued, as its next attempt
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.urls import reverse
from django.utils import timezone

from core.ownership import Owned, OwnedQuerySet
from core.store import jobs_folder
from core.text import counted
from jobs.devices.launchers import LAUNCHERS, LOCAL, RAY, machine_words

J = TypeVar("J", bound="Job")


class IllegalTransition(ValueError):
    """A change of status that the state machine does not have."""


class JobQuerySet(OwnedQuerySet[J]):
    def active(self) -> Self:
        return self.filter(status__in=Job.ACTIVE)

    def update(self, **values: Any) -> int:
        """Also for models that extend Job, whose columns lie in two tables.

        Django writes the second table by ids that it has read before, so that a row that changed in
        between would be overwritten although it no longer fulfils the filter. Here the rows are
        locked first, which asks the filter again.
        """
        own_names = {field.name for field in self.model._meta.local_concrete_fields}
        inherited = {name: value for name, value in values.items() if name not in own_names}
        if not self.model._meta.parents or not inherited:
            return super().update(**values)

        own = {name: value for name, value in values.items() if name in own_names}
        with transaction.atomic():
            locked = self.order_by().select_related(None).select_for_update(of=("self", "job"))
            rows = list(locked.only("pk", "job", "number"))
            if rows:
                Job.objects.filter(number__in=[row.number for row in rows]).update(**inherited)
            if rows and own:
                ids = [row.pk for row in rows]
                models.QuerySet.update(self.model._base_manager.filter(pk__in=ids), **own)

        return len(rows)

    update.alters_data = True  # type: ignore[attr-defined]


class Job(Owned):
    """One piece of work, from its request until long after its end.

    A kind of work that has more to store than this extends it (`training.models.TrainRun`); what the
    others change is stored where it belongs, such as on the dataset. See jobs.kinds."""

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

    class Lane(models.IntegerChoices):
        """What it waits for: a background worker for work of about that length, or a device."""

        QUICK = 0, "Seconds"
        NORMAL = 1, "Minutes"
        LONG = 2, "Hours"
        DEVICE = 3, "Device"

    ACTIVE: ClassVar = (Status.RUNNING, Status.STOPPING)
    OPEN: ClassVar = (Status.QUEUED, *ACTIVE)
    ENDED: ClassVar = (Status.FINISHED, Status.FAILED, Status.STOPPED)
    TRANSITIONS: ClassVar = {
        Status.QUEUED: {Status.RUNNING, Status.STOPPED, Status.FAILED},
        Status.RUNNING: {Status.STOPPING, Status.FINISHED, Status.FAILED, Status.STOPPED},
        Status.STOPPING: {Status.STOPPED, Status.FINISHED, Status.FAILED},
        Status.FINISHED: set(),
        Status.FAILED: {Status.QUEUED},
        Status.STOPPED: {Status.QUEUED},
    }

    # Not "id": models that extend this one keep an id of their own, such as a train's number.
    number = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=50, help_text="A name that jobs.kinds.kind_register knows.")
    name = models.CharField(max_length=120, help_text="What it is about, for people.")
    arguments = models.JSONField(default=list, help_text="What its kind needs to know.")
    # Null and not "": the constraints below let any number of jobs have no key.
    key = models.CharField(  # noqa: DJ001
        max_length=200, null=True, blank=True, help_text="One open job at a time of each key."
    )
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001

    # How it waits, see jobs.queue.
    lane = models.SmallIntegerField(choices=Lane.choices, default=Lane.DEVICE)
    priority = models.SmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    place = models.FloatField(
        default=0, help_text="The order in line among those of the same lane and priority."
    )
    starts_after = models.ForeignKey(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="followers",
        help_text="Starts once that finished.",
    )
    due_at = models.DateTimeField(
        null=True, blank=True, help_text="After a failure: does not start again before."
    )
    limit_seconds = models.PositiveIntegerField(
        null=True, blank=True, help_text="It is ended after so long."
    )

    # Where it stands. `status` is written by transition() alone.
    status = models.CharField(
        max_length=10, choices=Status.choices, default=Status.QUEUED, db_index=True
    )
    attempt = models.PositiveIntegerField(default=1)
    resumes = models.PositiveSmallIntegerField(
        default=0,
        help_text="How often it was begun again by itself since a person last asked for it.",
    )
    phase = models.CharField(max_length=80, blank=True)
    progress = models.FloatField(null=True, blank=True, help_text="Share that is done, 0 to 1.")
    discards = models.BooleanField(default=False, help_text="Its stop saves nothing.")
    events_offset = models.BigIntegerField(
        default=0, help_text="Bytes of events.jsonl already read."
    )

    # Why it failed, in words a person can act on.
    error_code = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)
    error_advice = models.TextField(blank=True)

    # Who runs it.
    worker = models.CharField(max_length=200, blank=True)
    host = models.CharField(
        max_length=200, blank=True, help_text="The machine that runs it, or ran it last."
    )
    process = models.CharField(
        max_length=60, blank=True, help_text="Whoever watches it, see core.processes."
    )
    devices = models.JSONField(
        default=list,
        blank=True,
        help_text="The devices of that machine that it has, or had last: [{identity, slot, label}]; "
        "with the cluster's name as machine where they are a cluster's.",
    )
    # For one that waits for several devices of one machine, see training.work.placing.
    gathers_on = models.CharField(
        max_length=200, blank=True, help_text="The machine and slot whose devices are kept for it."
    )
    gathers_until = models.DateTimeField(
        null=True, blank=True, help_text="When it was to start there: no other may run longer."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    earlier_seconds = models.FloatField(default=0, help_text="How long earlier attempts ran.")

    objects = JobQuerySet.as_manager()

    class Meta(Owned.Meta):
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["key"],
                condition=models.Q(status__in=("queued", "running", "stopping")),
                name="one_open_job_a_key",
            ),
            models.UniqueConstraint(
                fields=["owner", "kind", "idempotency_key"], name="one_job_an_idempotency_key"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["status", "lane", "-priority", "place"], name="jobs_in_order"),
        ]

    def __str__(self) -> str:
        return f"{self.name} (job {self.number})"

    def get_absolute_url(self) -> str:
        return reverse("jobs:detail", args=[self.number])

    @property
    def device_labels(self) -> list[str]:
        """Which devices of its machine it has, or had last; none where the machine has only one."""
        return [str(device["label"]) for device in self.devices if device.get("label")]

    @property
    def cluster(self) -> str:
        """The name of the cluster whose devices it has, or had last; "" for none."""
        return str(self.devices[0].get("machine", "")) if self.devices else ""

    @property
    def devices_text(self) -> str:
        """The same in words: "cpu 1", "2 devices: cpu 0, cpu 1", "2 devices of the Ray cluster at …"."""
        if self.cluster:
            return f"{counted(len(self.devices), 'device')} of {machine_words(self.cluster, RAY)}"

        labels = self.device_labels
        names = ", ".join(labels)

        return f"{counted(len(labels), 'device')}: {names}" if len(labels) > 1 else names

    @property
    def directory(self) -> Path:
        """Where its log lies, and whatever else its kind writes."""
        return jobs_folder() / str(self.number)

    @property
    def log_path(self) -> Path:
        return self.directory / "job.log"

    def forget(self) -> None:
        """Delete it with its log: a job of the background workers, which is nothing more."""
        directory = self.directory
        self.delete()
        shutil.rmtree(directory, ignore_errors=True)

    @property
    def ended(self) -> bool:
        return self.status in self.ENDED

    def transition(self, to: Status, *, attempt: int | None = None, **values: Any) -> bool:
        """Change the status to `to` and write `values` with it, in one conditional write. Returns
        whether this caller did.

        False, with nothing written, where the status has changed since the job was read, or where
        `attempt` is no longer the job's attempt. A return to the queue begins the next attempt.
        Raises IllegalTransition for a change that the state machine does not have."""
        if to not in self.TRANSITIONS[self.Status(self.status)]:
            raise IllegalTransition(f"A job cannot go from {self.status} to {to}.")

        rows = type(self)._default_manager.filter(pk=self.pk, status=self.status)
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


class Machine(models.Model):
    """What a machine's workers have said of it, for as long as it may come back.

    Which of them are there now is said by jobs.devices.presence."""

    host = models.CharField(max_length=200)
    slot = models.CharField(max_length=60, default="0", help_text="Of its workers.")
    launcher = models.CharField(
        max_length=10,
        default=LOCAL,
        choices=LAUNCHERS,
        help_text="ray: its host is a cluster's name.",
    )
    kind = models.CharField(max_length=10, default="cpu", help_text="cpu or cuda.")
    devices = models.PositiveSmallIntegerField(
        default=1, help_text="How many it has; of a cluster, the most that it had."
    )
    seen_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering: ClassVar = ["host", "slot"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["host", "slot"], name="one_machine_a_host_and_slot")
        ]

    def __str__(self) -> str:
        return self.words

    @property
    def words(self) -> str:
        """What sentences call it."""
        return machine_words(self.host, self.launcher)


class Notice(models.Model):
    """A notice of how an attempt of a job ended, to one receiver; see jobs.notices."""

    class Way(models.TextChoices):
        MAIL = "mail", "E-mail"
        WEBHOOK = "webhook", "Webhook"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    job = models.ForeignKey(Job, models.CASCADE, related_name="notices")
    attempt = models.PositiveIntegerField()
    status = models.CharField(max_length=10, choices=Job.Status.choices)
    way = models.CharField(max_length=10, choices=Way.choices)
    tries = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering: ClassVar = ["pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["job", "attempt", "way"], name="one_notice_a_job_attempt_and_way"
            )
        ]

    def __str__(self) -> str:
        return f"{self.way}: job {self.job_id} {self.status}"


class DevicePolicy(models.Model):
    """The one row that says how trains and model servers share a device. Where there is none, the
    defaults hold."""

    class Rule(models.TextChoices):
        AUTOMATIC = "", "Automatic: share a CPU, trains first on a GPU"
        SHARE = "share", "Share: both at once, models with one thread beside a train"
        TRAINS = "trains", "Trains first: models are unloaded for them"
        CHAT = "chat", "Answers first: trains wait until nobody asks"

    rule = models.CharField(max_length=10, choices=Rule.choices, default=Rule.AUTOMATIC, blank=True)
    idle_minutes = models.PositiveIntegerField(
        default=10,
        validators=[MinValueValidator(1), MaxValueValidator(7 * 24 * 60)],
        help_text="A model that nobody asks for so long is unloaded; so long do trains wait under "
        "“Answers first”.",
    )
    models_at_once = models.PositiveIntegerField(
        "models at once",
        default=3,
        validators=[MinValueValidator(1), MaxValueValidator(50)],
        help_text="Base models in memory. Trains of one base model share it.",
    )

    class Meta:
        verbose_name = "device policy"
        verbose_name_plural = "device policy"

    def __str__(self) -> str:
        return str(self.get_rule_display())

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.pk = 1
        super().save(*args, **kwargs)
