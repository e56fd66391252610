"""What the API says of methods."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from core.api import StrictSerializer
from engine.schema.registry import RECIPES
from methods.models import MethodVersion, RewardFunction, TrainingMethod
from methods.schema import reward_function_schema
from methods.services import method_defaults, method_formats, method_schema

DEVICES = ("cpu", "cuda")


class MethodChangeSerializer(StrictSerializer):
    """What an operator may set. A custom program is registered in the administration, by a
    superuser."""

    name = serializers.CharField(max_length=80, required=False)
    tagline = serializers.CharField(max_length=80, required=False, allow_blank=True)
    description = serializers.CharField(max_length=5000, required=False, allow_blank=True)
    needs = serializers.CharField(max_length=200, required=False, allow_blank=True)
    example = serializers.CharField(max_length=5000, required=False, allow_blank=True)
    cost = serializers.CharField(max_length=200, required=False, allow_blank=True)
    overrides = serializers.DictField(
        required=False,
        help_text='{field: {"default", "default_on_cpu", "fixed", "hidden", "minimum", "maximum"}}',
    )
    order = serializers.IntegerField(
        required=False, min_value=0, max_value=1_000_000, help_text="Lower comes first."
    )


class MethodCreateSerializer(MethodChangeSerializer):
    slug = serializers.SlugField(max_length=60)
    name = serializers.CharField(max_length=80)
    recipe = serializers.ChoiceField(choices=list(RECIPES))


class MethodVersionSerializer(serializers.ModelSerializer[MethodVersion]):
    changed_by = serializers.CharField(
        source="changed_by.username", default=None, read_only=True, allow_null=True
    )

    class Meta:
        model = MethodVersion
        fields = ("version", "recipe", "overrides", "parameters", "changed_by", "created_at")


class TrainingMethodSerializer(serializers.ModelSerializer[TrainingMethod]):
    """Context: {"device": "cpu" or "cuda"}, since some defaults differ by device."""

    formats = serializers.SerializerMethodField(
        help_text="Formats of datasets that it can learn from."
    )
    parameters_schema = serializers.SerializerMethodField(
        help_text="JSON Schema of the parameters of a train."
    )
    defaults = serializers.SerializerMethodField(help_text="Every parameter with its default.")

    class Meta:
        model = TrainingMethod
        fields = (
            "id",
            "slug",
            "name",
            "tagline",
            "description",
            "needs",
            "example",
            "example_rows",
            "cost",
            "recipe",
            "version",
            "formats",
            "defaults",
            "parameters_schema",
            "retired_at",
        )
        read_only_fields = fields

    def get_formats(self, method: TrainingMethod) -> list[str]:
        return list(method_formats(method))

    def get_parameters_schema(self, method: TrainingMethod) -> dict[str, Any]:
        schema = method_schema(method, device=self.context["device"])
        if not method.is_custom and "rewards" in schema["properties"]:
            offered = [
                reward_function_schema(function) for function in RewardFunction.objects.offered()
            ]
            schema["properties"]["rewards"]["items"]["oneOf"] += offered

        return schema

    def get_defaults(self, method: TrainingMethod) -> dict[str, Any]:
        return method_defaults(method, device=self.context["device"])
