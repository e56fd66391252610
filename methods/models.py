"""Training methods: a recipe of the engine with the defaults, bounds and fields that operators chose for it."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class TrainingMethodQuerySet(models.QuerySet["TrainingMethod"]):
    def offered(self) -> TrainingMethodQuerySet:
        return self.filter(retired_at=None)


class TrainingMethod(models.Model):
    """`overrides`: {field: {"default", "fixed", "hidden", "minimum", "maximum", "default_on_cpu"}}.

    A fixed field always has that value and is not shown; bounds may only narrow what the recipe allows.
    """

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
    recipe = models.CharField(max_length=40)
    overrides = models.JSONField(default=dict, blank=True)
    version = models.PositiveIntegerField(default=1)
    order = models.PositiveIntegerField(default=100)
    retired_at = models.DateTimeField(null=True, blank=True)

    objects = TrainingMethodQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["order", "id"]

    def __str__(self) -> str:
        return self.name
