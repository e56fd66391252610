"""Exports: models in the forms that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.urls import reverse

from core.ownership import Reader
from core.store import exports_folder
from models_app.models import BaseModel

# A container for one of the other formats.
CONTENTS = ("safetensors", "adapter", "gguf")


class ExportQuerySet(models.QuerySet["Export"]):
    def visible_to(self, user: Reader) -> ExportQuerySet:
        """The exports of the models that `user` may see."""
        return self.filter(model__in=BaseModel.objects.visible_to(user).order_by())

    def with_related(self) -> ExportQuerySet:
        return self.select_related("model", "model__owner", "asked_by")


class Export(models.Model):
    """making -> ready | failed, and back to making when somebody tries again or has it delivered.

    It belongs to whoever has the model."""

    class Format(models.TextChoices):
        SAFETENSORS = "safetensors", "Safetensors"
        ADAPTER = "adapter", "Adapter"
        GGUF = "gguf", "GGUF"
        GGUF_ADAPTER = "gguf-adapter", "Adapter as GGUF"
        OLLAMA = "ollama", "Ollama"
        HUB = "hub", "Hugging Face hub"

    class Status(models.TextChoices):
        MAKING = "making", "Being made"
        READY = "ready", "Ready"
        FAILED = "failed", "Failed"

    class Delivery(models.TextChoices):
        NONE = "", "Nowhere"
        WANTED = "wanted", "Will be delivered"
        HELD = "held", "Held back: it is not known to be the trained model"
        DONE = "done", "Delivered"
        FAILED = "failed", "Could not be delivered"

    model = models.ForeignKey(BaseModel, models.PROTECT, related_name="exports")
    format = models.CharField(max_length=20, choices=Format.choices)
    options = models.JSONField(
        default=dict,
        blank=True,
        help_text="quantization, shard_bytes; of the hub: content, private, replace; of what is "
        "delivered: anyway, begun.",
    )
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="With whose hub token it is uploaded.",
    )

    status = models.CharField(max_length=10, choices=Status.choices, default=Status.MAKING)
    error = models.TextField(blank=True)
    progress = models.FloatField(default=0, help_text="Share that is done, 0 to 1.")
    phase = models.CharField(max_length=40, blank=True, help_text="What is being done, for people.")
    attempts = models.PositiveIntegerField(default=0, help_text="How often it was begun.")

    size_bytes = models.BigIntegerField(default=0)
    files = models.JSONField(default=list, blank=True, help_text="name, size_bytes and sha256.")
    remark = models.TextField(blank=True, help_text="What people should know of it.")
    proof = models.JSONField(default=dict, blank=True, help_text="passed, and checks.")

    delivery = models.CharField(
        max_length=10, choices=Delivery.choices, default=Delivery.NONE, blank=True
    )
    destination = models.CharField(
        max_length=300, blank=True, help_text="A repository on the hub, or a name in Ollama."
    )
    delivery_error = models.TextField(blank=True)
    address = models.CharField(max_length=500, blank=True, help_text="Where it was delivered to.")

    created_at = models.DateTimeField(auto_now_add=True)
    made_at = models.DateTimeField(null=True, blank=True)

    objects = ExportQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [models.Index(fields=["status"], name="exports_status")]

    def __str__(self) -> str:
        return f"{self.model.name} as {self.title}"

    def get_absolute_url(self) -> str:
        return reverse("exports:detail", args=[self.pk])

    @property
    def title(self) -> str:
        """The format with what was chosen in it: GGUF Q8_0."""
        quantization = self.options.get("quantization", "")
        parts = [self.get_format_display(), quantization.upper()]
        return " ".join(part for part in parts if part)

    @property
    def written_format(self) -> str:
        """The format of the files."""
        if self.format == self.Format.HUB:
            return str(self.options["content"])

        return self.format

    @property
    def is_adapter(self) -> bool:
        return self.written_format in (self.Format.ADAPTER, self.Format.GGUF_ADAPTER)

    @property
    def proof_state(self) -> str:
        """ "passed", "failed", or "" where nothing was compared."""
        return {True: "passed", False: "failed"}.get(self.proof.get("passed"), "")

    @property
    def differs(self) -> bool:
        """Whether it is known not to be the trained model."""
        return self.proof_state == "failed"

    @property
    def only_to_be_delivered(self) -> bool:
        """Whether all is made, and nothing but its delivery is still to come."""
        is_made = bool(self.files) and self.files_path.is_dir()
        return is_made and self.delivery == self.Delivery.WANTED

    @property
    def folder(self) -> Path:
        """Where it is made; what is in `files_path` alone counts."""
        return exports_folder() / str(self.pk)

    @property
    def files_path(self) -> Path:
        return self.folder / "files"

    def failed_checks(self) -> list[dict[str, Any]]:
        return [check for check in self.proof.get("checks", []) if not check["passed"]]
