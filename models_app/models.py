"""Base models: what a train starts from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from django.db import models
from django.urls import reverse

from core.ownership import Owned, OwnedQuerySet
from core.store import models_folder

# The uploaded GGUF file, in the folder of its import.
UPLOADED = "source.gguf"
# What is kept of a trained model beside its weights, in the folder `trained_path`.
ADAPTER_FOLDER = "adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
REFERENCE = "reference.json"
VERSION_LIMIT = 20
# {work}: import or merge.
CUT_OFF = (
    "The {work} was cut off several times, perhaps for lack of memory. Try again when the server "
    "is less busy."
)


class BaseModelQuerySet(OwnedQuerySet["BaseModel"]):
    def offered(self) -> BaseModelQuerySet:
        return self.filter(status=BaseModel.Status.READY, archived_at=None)

    def with_related(self) -> BaseModelQuerySet:
        # A count groups, and grouping forgets the model's own order.
        return (
            self.select_related("owner", "parent")
            .annotate(train_count=models.Count("trains"))
            .order_by("name", "id")
        )


class BaseModel(Owned):
    """importing -> ready | failed, and failed -> importing when somebody tries again.

    Weights are safetensors in a folder that only the platform writes: wherever a model came from,
    what a train starts from never changes under it."""

    class Source(models.TextChoices):
        FOLDER = "folder", "Local folder"
        HUB = "hub", "Hugging Face"
        GGUF = "gguf", "GGUF file"
        TRAIN = "train", "Trained here"

    # What people can add; a trained model comes from its train.
    ADDED: ClassVar = (Source.FOLDER, Source.HUB, Source.GGUF)

    class Status(models.TextChoices):
        IMPORTING = "importing", "Importing"
        READY = "ready", "Ready"
        FAILED = "failed", "Failed"

    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=140, unique=True)
    description = models.TextField(blank=True)
    source = models.CharField(max_length=10, choices=Source.choices)
    reference = models.CharField(
        max_length=500, help_text="Folder, hub id with revision, or name of the GGUF file."
    )

    status = models.CharField(max_length=10, choices=Status.choices, default=Status.IMPORTING)
    error = models.TextField(blank=True)
    progress = models.FloatField(default=0, help_text="Share of the import that is done, 0 to 1.")
    phase = models.CharField(
        max_length=40, blank=True, help_text="What the import is doing, in a word for people."
    )
    attempts = models.PositiveIntegerField(default=0, help_text="How often the import was begun.")

    architecture = models.CharField(max_length=100, blank=True)
    parameter_count = models.BigIntegerField(default=0)
    context_length = models.IntegerField(default=0)
    dtype = models.CharField(max_length=20, blank=True)
    chat_template = models.TextField(blank=True)
    template_example = models.TextField(
        blank=True, help_text="A question and its answer as the template renders them."
    )
    revision = models.CharField(max_length=64, blank=True, help_text="The hub's commit.")
    licence = models.CharField(max_length=100, blank=True)
    size_bytes = models.BigIntegerField(default=0)
    sha256 = models.CharField(
        max_length=64, blank=True, help_text="Over names and contents of all files."
    )
    tokenizer_sha256 = models.CharField(max_length=64, blank=True)
    linear_modules = models.JSONField(default=list, help_text="Names that LoRA can target.")
    trained_from = models.JSONField(
        default=dict,
        blank=True,
        help_text="Of a model that was trained here: train, its name and method, step, base_model, "
        "precision.",
    )
    proof = models.JSONField(
        default=dict, blank=True, help_text="Of a model that was trained here: passed, and checks."
    )
    # What another model was trained from stays, as what a train started from does.
    parent = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="children",
        help_text="Of a model that was trained here: the model that its train started from.",
    )
    version = models.CharField(
        max_length=VERSION_LIMIT,
        blank=True,
        help_text="Of a model that was trained here: counts up under its name.",
    )

    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    objects = BaseModelQuerySet.as_manager()

    class Meta(Owned.Meta):
        ordering: ClassVar = ["name", "id"]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("models:detail", args=[self.pk])

    @property
    def title(self) -> str:
        """The name, of a trained model with its version: "Help desk · v2"."""
        return f"{self.name} · {self.version_text}" if self.version else self.name

    @property
    def version_text(self) -> str:
        return f"v{self.version}" if self.version[:1].isdigit() else self.version

    @property
    def is_trained(self) -> bool:
        """Whether it is what a train of this platform made."""
        return self.source == self.Source.TRAIN

    @property
    def work(self) -> str:
        """What makes it, as a noun."""
        return "merge" if self.is_trained else "import"

    @property
    def status_title(self) -> str:
        if self.is_trained and self.status == self.Status.IMPORTING:
            return "Merging"

        return str(self.get_status_display())

    @property
    def proof_state(self) -> str:
        """ "passed", "failed", or "" where nothing was proved."""
        return {True: "passed", False: "failed"}.get(self.proof.get("passed"), "")

    @property
    def path(self) -> Path:
        return models_folder() / str(self.pk)

    @property
    def import_path(self) -> Path:
        """Where its import works: the uploaded file, and what is not yet a whole model."""
        return models_folder() / "imports" / str(self.pk)

    @property
    def folders(self) -> list[Path]:
        """All that a model has on disk."""
        return [self.path, self.import_path, self.trained_path]

    @property
    def trained_path(self) -> Path:
        """What is kept of a trained model beside its weights; it appears with the model."""
        return models_folder() / "trained" / str(self.pk)

    @property
    def adapter_path(self) -> Path:
        """The adapter that was merged into the weights. `has_adapter`: whether it is there."""
        return self.trained_path / ADAPTER_FOLDER

    @property
    def reference_path(self) -> Path:
        """What the trained model answered, as engine.proof wrote it: exports are held against it
        when the train's own files are gone."""
        return self.trained_path / REFERENCE

    @property
    def has_adapter(self) -> bool:
        """Not that of a model that was trained whole, nor of one from before adapters were kept
        whose train is gone."""
        return (self.adapter_path / ADAPTER_WEIGHTS).is_file()
