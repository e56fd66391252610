"""What the API says of base models, and what it takes."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.api import StrictSerializer
from core.api_sharing import OwnerField
from models_app.models import BaseModel
from models_app.services import DESCRIPTION_LIMIT, parent_of, trained_from


class ParentSerializer(serializers.ModelSerializer[BaseModel]):
    """A model by its names alone."""

    class Meta:
        model = BaseModel
        fields = ("id", "slug", "title")
        read_only_fields = fields


class BaseModelSerializer(serializers.ModelSerializer[BaseModel]):
    owner = OwnerField()
    train_count = serializers.IntegerField(
        read_only=True, help_text="Trains that started from it, of anybody."
    )
    trained_from = serializers.SerializerMethodField(
        help_text="Of a model that was trained here. Its train and base model are named to its "
        "owner and operators."
    )
    title = serializers.CharField(read_only=True, help_text="The name with its version.")
    parent = serializers.SerializerMethodField(  # type: ignore[assignment]
        help_text="Of a model that was trained here: the model that its train started from, for "
        "those who may see it."
    )
    url = serializers.CharField(
        source="get_absolute_url", read_only=True, help_text="The model's page."
    )

    class Meta:
        model = BaseModel
        fields = (
            "id",
            "slug",
            "name",
            "version",
            "title",
            "description",
            "source",
            "reference",
            "revision",
            "status",
            "error",
            "progress",
            "phase",
            "architecture",
            "parameter_count",
            "context_length",
            "dtype",
            "licence",
            "size_bytes",
            "sha256",
            "tokenizer_sha256",
            "linear_modules",
            "trained_from",
            "parent",
            "proof",
            "chat_template",
            "template_example",
            "train_count",
            "owner",
            "shared",
            "created_at",
            "archived_at",
            "url",
        )
        read_only_fields = fields

    @property
    def reader(self) -> Any:
        request = self.context.get("request")
        return request.user if request is not None else None

    def get_trained_from(self, model: BaseModel) -> dict[str, Any]:
        return trained_from(model, self.reader)

    @extend_schema_field(ParentSerializer(allow_null=True))
    def get_parent(self, model: BaseModel) -> dict[str, Any] | None:
        parent = parent_of(model, self.reader)
        return ParentSerializer(parent).data if parent is not None else None


class BaseModelCreateSerializer(StrictSerializer):
    """`reference` for a folder or the hub, `file` (multipart) for GGUF."""

    source = serializers.ChoiceField(  # type: ignore[assignment]
        choices=[(source.value, source.label) for source in BaseModel.ADDED]
    )
    reference = serializers.CharField(
        max_length=4000,
        required=False,
        allow_blank=True,
        default="",
        help_text="Hub: org/name or org/name@revision. Folder: one that is offered under folders/.",
    )
    file = serializers.FileField(
        required=False,
        allow_empty_file=True,
        max_length=None,
        help_text="The GGUF file, as multipart/form-data.",
    )
    name = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        is_upload = attrs["source"] == BaseModel.Source.GGUF
        has_file = "file" in attrs
        has_reference = bool(attrs["reference"].strip())
        errors = {}

        if is_upload and not has_file:
            errors["file"] = ["Send the file as multipart/form-data, in the field “file”."]
        elif is_upload and has_reference:
            errors["reference"] = ["A GGUF model comes by its file alone."]
        elif not is_upload and has_file:
            errors["file"] = ["Only a GGUF model is uploaded."]
        elif not is_upload and not has_reference:
            errors["reference"] = ["Name the model."]

        if errors:
            raise serializers.ValidationError(errors)

        return attrs


class BaseModelUpdateSerializer(StrictSerializer):
    name = serializers.CharField(max_length=120, required=False)
    description = serializers.CharField(
        max_length=DESCRIPTION_LIMIT, required=False, allow_blank=True
    )


class PassportSerializer(serializers.Serializer[Any]):
    """Parts that a model does not have are left out."""

    version = serializers.IntegerField(help_text="Of this form, 2.")
    model = serializers.DictField(help_text="Names and hashes.")
    licences = serializers.DictField(help_text="Of the model and its base model.")
    files = serializers.DictField(help_text="By name: bytes and sha256.")
    source = serializers.DictField(  # type: ignore[assignment]
        required=False, help_text="Of a model that was added: kind, reference, revision, licence."
    )
    train = serializers.DictField(required=False, help_text="Its id, name, method and recipe.")
    checkpoint_step = serializers.IntegerField(required=False, allow_null=True)
    base_model = serializers.DictField(
        required=False, help_text="Its name, sha256, id and revision on the hub, licence."
    )
    data = serializers.DictField(  # type: ignore[assignment]
        required=False, help_text="sha256, format and type of the file."
    )
    evaluation_data = serializers.DictField(required=False, allow_null=True)
    datasets = serializers.DictField(required=False, help_text="Their ids, titles and licences.")
    code = serializers.DictField(
        required=False, help_text="The platform's version; hashes of programs and rewards."
    )
    trained_weights_sha256 = serializers.DictField(required=False)
    parameters = serializers.DictField(required=False)
    system_prompt = serializers.CharField(required=False)
    precision = serializers.CharField(required=False)
    remark = serializers.CharField(required=False)
    machine = serializers.DictField(required=False, help_text="Device, versions, precision.")
    measures = serializers.DictField(
        required=False, help_text="First, last and best value of the method's metric."
    )
    proof = serializers.DictField(required=False)
    command = serializers.CharField(required=False)


class FolderSerializer(serializers.Serializer[Any]):
    path = serializers.CharField(help_text="Send it as `reference`.")
    name = serializers.CharField()
    size_bytes = serializers.IntegerField()
    obstacle = serializers.CharField(help_text="Why it cannot be added; empty where it can.")


class FoldersSerializer(serializers.Serializer[Any]):
    roots = serializers.ListField(
        child=serializers.CharField(), help_text="Folders that models may lie below."
    )
    folders = FolderSerializer(many=True)
