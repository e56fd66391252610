"""What the API says of exports, and what it takes."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.api import StrictSerializer
from exports.downloads import files_for
from exports.formats import QUANTIZATIONS, licence_warnings
from exports.models import CONTENTS, Export


class ExportModelSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    slug = serializers.CharField()
    name = serializers.CharField()


class ExportFileSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="Below the export's folder.")
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField()


class ExportCheckSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    passed = serializers.BooleanField()
    detail = serializers.CharField()


class ExportProofSerializer(serializers.Serializer[Any]):
    passed = serializers.BooleanField(
        allow_null=True, help_text="Null until it is compared, and where that could not be done."
    )
    checks = ExportCheckSerializer(many=True)
    error = serializers.CharField(help_text="Why it could not be compared.")


class ExportSerializer(serializers.ModelSerializer[Export]):
    model = ExportModelSerializer(read_only=True)
    title = serializers.CharField(read_only=True, help_text="Such as GGUF Q8_0.")
    files = serializers.SerializerMethodField()
    proof = serializers.SerializerMethodField(help_text="Comparison with the trained model.")
    quantization = serializers.SerializerMethodField(help_text="Of GGUF weights, else empty.")
    licence_notes = serializers.SerializerMethodField(
        help_text="What the model's licence forbids or asks of those who pass it on."
    )
    url = serializers.CharField(
        source="get_absolute_url", read_only=True, help_text="The export's page."
    )

    class Meta:
        model = Export
        fields = (
            "id",
            "model",
            "format",
            "title",
            "quantization",
            "options",
            "status",
            "error",
            "progress",
            "phase",
            "size_bytes",
            "files",
            "remark",
            "licence_notes",
            "proof",
            "delivery",
            "destination",
            "delivery_error",
            "address",
            "created_at",
            "made_at",
            "url",
        )
        read_only_fields = fields

    def get_licence_notes(self, export: Export) -> list[str]:
        return licence_warnings(export.model)

    @extend_schema_field(ExportFileSerializer(many=True))
    def get_files(self, export: Export) -> list[dict[str, Any]]:
        return files_for(export, self.context["request"].user)

    @extend_schema_field(ExportProofSerializer)
    def get_proof(self, export: Export) -> dict[str, Any]:
        proof: dict[str, Any] = {"passed": None, "checks": [], "error": ""} | export.proof
        return proof

    def get_quantization(self, export: Export) -> str:
        return str(export.options.get("quantization", ""))


class ExportCreateSerializer(StrictSerializer):
    format = serializers.ChoiceField(choices=Export.Format.choices)
    quantization = serializers.ChoiceField(
        choices=list(QUANTIZATIONS),
        required=False,
        allow_blank=True,
        default="",
        help_text="Of GGUF weights; f16 where none is named.",
    )
    shard_bytes = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        help_text="The most that one file of safetensors may take, 5 GB where nothing is said.",
    )
    content = serializers.ChoiceField(
        choices=list(CONTENTS),
        required=False,
        allow_blank=True,
        default="",
        help_text="What is uploaded to the hub: safetensors where nothing is said.",
    )
    repository = serializers.CharField(
        max_length=300,
        required=False,
        allow_blank=True,
        default="",
        help_text="On the hub: account/name.",
    )
    private = serializers.BooleanField(
        required=False, default=True, help_text="Whether a new repository on the hub is private."
    )
    replace = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Upload to a repository that is not empty, as a new commit.",
    )


class ExportDeliverSerializer(StrictSerializer):
    destination = serializers.CharField(
        max_length=200,
        required=False,
        allow_blank=True,
        default="",
        help_text="The model's name in Ollama; of the hub another repository than before.",
    )
    replace = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Replace a model of that name in Ollama, or upload to a repository that is not "
        "empty.",
    )
    anyway = serializers.BooleanField(
        required=False, default=False, help_text="Although it differs from the trained model."
    )
