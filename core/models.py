"""Background work: what waits for a worker, and what is being done."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Chore(models.Model):
    """One piece of background work. The row exists while the work waits or runs, and is deleted
    when it has ended; its result is stored where it belongs, such as on the dataset. The row of
    work that failed every time stays for operators to see, until the work is added again."""

    class Status(models.TextChoices):
        WAITING = "waiting", "Waiting"
        RUNNING = "running", "Running"
        CANCELLING = "cancelling", "Being cancelled"
        GIVEN_UP = "given_up", "Given up"

    class Lane(models.IntegerChoices):
        QUICK = 0, "Seconds"
        NORMAL = 1, "Minutes"
        LONG = 2, "Hours"

    key = models.CharField(max_length=200, unique=True, help_text="One at a time of each key.")
    kind = models.CharField(max_length=50, help_text="A name that core.chores.kind_register knows.")
    arguments = models.JSONField(default=list)
    # No foreign key: whose turn it takes says nothing about who may see what.
    person = models.BigIntegerField(
        null=True, blank=True, help_text="Id of the person whose turn it takes."
    )
    lane = models.SmallIntegerField(
        choices=Lane.choices, help_text="How long it is likely to take."
    )
    turn = models.BigIntegerField(default=0, help_text="Lower turns of a lane go first.")
    limit_seconds = models.PositiveIntegerField(help_text="It is ended after so long.")

    status = models.CharField(max_length=10, choices=Status.choices, default=Status.WAITING)
    starts = models.PositiveIntegerField(default=0, help_text="How often it was begun.")
    due_at = models.DateTimeField(
        null=True, blank=True, help_text="After a failure: not begun again before."
    )
    error = models.CharField(max_length=500, blank=True, help_text="Of its latest failure.")
    host = models.CharField(max_length=200, blank=True)
    process = models.CharField(max_length=60, blank=True, help_text="See core.processes.")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["lane", "turn", "pk"]
        verbose_name = "background task"
        indexes: ClassVar = [
            models.Index(fields=["status", "lane", "turn"], name="chores_in_order")
        ]

    def __str__(self) -> str:
        return self.key
