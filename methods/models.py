"""Training methods: a recipe of the engine with the defaults, bounds and fields that operators
chose for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import models

from core.store import located_path
from engine.schema.registry import CUSTOM


class TrainingMethodQuerySet(models.QuerySet["TrainingMethod"]):
    def offered(self) -> TrainingMethodQuerySet:
        return self.filter(retired_at=None)


class TrainingMethod(models.Model):
    """`overrides`: {field: {"default", "fixed", "hidden", "minimum", "maximum", "default_on_cpu"}}.

    A fixed field always has that value and is not shown; bounds may only narrow what the recipe
    allows."""

    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=80)
    tagline = models.CharField(max_length=80, blank=True)
    description = models.TextField()
    needs = models.CharField(max_length=200, help_text="What each row of the data must hold.")
    example = models.TextField(help_text="A row of the data, as JSON.")
    example_rows = models.JSONField(
        default=list, blank=True, help_text="A few rows that belong together, for the catalogue."
    )
    cost = models.CharField(max_length=200, blank=True)
    recipe = models.CharField(max_length=40, help_text="A recipe of the engine, or custom.")
    program = models.JSONField(
        default=dict,
        blank=True,
        help_text="Of a custom method: interpreter, script (its file), sha256, formats.",
    )
    parameters = models.JSONField(
        default=dict, blank=True, help_text="Of a custom method: JSON Schema of its parameters."
    )
    overrides = models.JSONField(default=dict, blank=True)
    version = models.PositiveIntegerField(default=1)
    order = models.PositiveIntegerField(default=100)
    retired_at = models.DateTimeField(null=True, blank=True)

    objects = TrainingMethodQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["order", "id"]

    def __str__(self) -> str:
        return self.name

    def version_keep(self, by: Any = None) -> None:
        """Write down what this version is; what is written once is never changed."""
        MethodVersion.objects.get_or_create(
            method=self,
            version=self.version,
            defaults={
                "recipe": self.recipe,
                "overrides": self.overrides,
                "program": self.program,
                "parameters": self.parameters,
                "changed_by": by,
            },
        )

    @property
    def is_custom(self) -> bool:
        return self.recipe == CUSTOM


class RewardFunctionQuerySet(models.QuerySet["RewardFunction"]):
    def offered(self) -> RewardFunctionQuerySet:
        return self.filter(retired_at=None)


class RewardFunction(models.Model):
    """A custom reward: a Python file with a function `reward`, see engine.rewards.custom.

    Trains name the file by path and sha256; one that is replaced stays where it is.
    """

    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=80)
    description = models.CharField(
        max_length=300, help_text="What it rewards, for those who choose it."
    )
    file = models.CharField(max_length=500, help_text="Its path, below the home.")
    sha256 = models.CharField(max_length=64)
    parameters = models.JSONField(
        default=dict, blank=True, help_text="JSON Schema of its parameters."
    )
    registered_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    changed_at = models.DateTimeField(auto_now=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    objects = RewardFunctionQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        return located_path(self.file)


class MethodVersion(models.Model):
    """What a method was in one of its versions; a train names the version that it ran with."""

    method = models.ForeignKey(TrainingMethod, models.CASCADE, related_name="versions")
    version = models.PositiveIntegerField()
    recipe = models.CharField(max_length=40)
    overrides = models.JSONField(default=dict)
    program = models.JSONField(default=dict)
    parameters = models.JSONField(default=dict)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-version"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["method", "version"], name="one_row_a_version")
        ]

    def __str__(self) -> str:
        return f"{self.method} v{self.version}"
