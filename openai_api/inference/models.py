"""What asking models leaves: calls of the last hour, responses that were to be stored, batches."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.conf import settings
from django.db import models

from accounts.models import Token


class Call(models.Model):
    """One request to /v1, for the page "For programs". Kept for an hour."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    token = models.ForeignKey(Token, models.SET_NULL, null=True, related_name="+")
    at = models.DateTimeField(db_index=True)
    method = models.CharField(max_length=10)
    path = models.CharField(max_length=120)
    model = models.CharField(max_length=200, blank=True, help_text="As the client named it.")
    tokens_in = models.PositiveIntegerField(null=True)
    tokens_out = models.PositiveIntegerField(null=True)
    status = models.PositiveSmallIntegerField(help_text="499 where the client left.")
    code = models.CharField(max_length=60, blank=True, help_text="Of the error.")
    seconds = models.FloatField()

    class Meta:
        ordering: ClassVar = ["-at", "-id"]
        default_permissions = ()
        indexes: ClassVar = [models.Index(fields=["user", "-at"], name="calls_of_a_person")]

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.status}"


def response_id() -> str:
    return f"resp_{uuid.uuid4().hex}"


class StoredResponse(models.Model):
    """A response that can be retrieved and gone on from, until it expires."""

    public_id = models.CharField(max_length=60, unique=True, default=response_id)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)
    size_bytes = models.PositiveIntegerField(default=0, help_text="Of its texts.")
    body = models.JSONField(help_text="As it was answered.")
    messages = models.JSONField(help_text="The whole conversation up to its end, as chat has it.")

    class Meta:
        ordering: ClassVar = ["-id"]
        default_permissions = ()

    def __str__(self) -> str:
        return self.public_id


def batch_id() -> str:
    return f"batch_{uuid.uuid4().hex}"


class Batch(models.Model):
    """A file of requests that are answered one after another, as a job."""

    class Status(models.TextChoices):
        VALIDATING = "validating", "Being checked"
        FAILED = "failed", "Failed"
        IN_PROGRESS = "in_progress", "Running"
        FINALIZING = "finalizing", "Being finished"
        COMPLETED = "completed", "Completed"
        EXPIRED = "expired", "Expired"
        CANCELLING = "cancelling", "Being cancelled"
        CANCELLED = "cancelled", "Cancelled"

    OPEN: ClassVar = (Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING)

    public_id = models.CharField(max_length=60, unique=True, default=batch_id)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    endpoint = models.CharField(max_length=60)
    input_file_id = models.CharField(max_length=80)
    output_file_id = models.CharField(max_length=80, blank=True)
    error_file_id = models.CharField(max_length=80, blank=True)
    completion_window = models.CharField(max_length=10)
    metadata = models.JSONField(null=True)
    idempotency_key = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=200, blank=True, help_text="Of the first request.")
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.VALIDATING)
    errors = models.JSONField(default=list, help_text="code, line, message and param of each.")
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    tokens_in = models.PositiveBigIntegerField(default=0)
    tokens_out = models.PositiveBigIntegerField(default=0)

    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True)
    finalizing_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    expired_at = models.DateTimeField(null=True)
    cancelling_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        default_permissions = ()
        verbose_name_plural = "batches"

    def __str__(self) -> str:
        return self.public_id

    @property
    def ended(self) -> bool:
        return self.status not in (*self.OPEN, self.Status.CANCELLING)

    def to_json(self) -> dict[str, Any]:
        """As OpenAI's API has it."""
        times = {
            name: int(moment.timestamp()) if (moment := getattr(self, name)) else None
            for name in (
                *("created_at", "expires_at", "in_progress_at", "finalizing_at", "completed_at"),
                *("failed_at", "expired_at", "cancelling_at", "cancelled_at"),
            )
        }
        errors = {"object": "list", "data": self.errors} if self.errors else None

        return {
            "id": self.public_id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model or None,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id or None,
            "error_file_id": self.error_file_id or None,
            **times,
            "request_counts": {
                "total": self.total,
                "completed": self.completed,
                "failed": self.failed,
            },
            "usage": {
                "input_tokens": self.tokens_in,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.tokens_out,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.tokens_in + self.tokens_out,
            },
            "metadata": self.metadata,
        }
