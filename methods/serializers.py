"""What the API says of methods."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from engine.recipes.registry import RECIPES
from methods.models import TrainingMethod
from methods.services import method_defaults, method_schema

DEVICES = ("cpu", "cuda")


class TrainingMethodSerializer(serializers.ModelSerializer[TrainingMethod]):
    """Context: {"device": "cpu" or "cuda"}, since some defaults differ by device."""

    formats = serializers.SerializerMethodField(help_text="Formats of datasets that it can learn from.")
    parameters_schema = serializers.SerializerMethodField(help_text="JSON Schema of the parameters of a train.")
    defaults = serializers.SerializerMethodField(help_text="Every parameter with its default.")

    class Meta:
        model = TrainingMethod
        fields = (
            "id", "slug", "name", "tagline", "description", "needs", "example", "example_rows", "cost", "recipe",
            "version", "formats", "defaults", "parameters_schema", "retired_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_formats(self, method: TrainingMethod) -> list[str]:
        return list(RECIPES[method.recipe].formats)

    def get_parameters_schema(self, method: TrainingMethod) -> dict[str, Any]:
        return method_schema(method, device=self.context["device"])

    def get_defaults(self, method: TrainingMethod) -> dict[str, Any]:
        return method_defaults(method, device=self.context["device"])
