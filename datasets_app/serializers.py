"""What the API says of datasets, and what it takes."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.api import StrictSerializer
from core.api_sharing import OwnerField
from datasets_app.check_queue import checks_ahead
from datasets_app.models import Dataset, DatasetProblem
from datasets_app.services import DESCRIPTION_LIMIT
from engine.rows.formats import FORMATS


class ColumnSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    type = serializers.CharField(
        help_text="text, number, list, object, null …; several joined by “or”."
    )


class UnusedSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(
        help_text="A column, a field within one as column.field, a key of turns as column[].key."
    )
    rows = serializers.IntegerField(help_text="Rows in which it carries something.")


class VersionSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField(source="dataset.pk")
    slug = serializers.CharField(source="dataset.slug")
    version = serializers.IntegerField(source="dataset.version")
    status = serializers.CharField(source="dataset.status")
    row_count = serializers.IntegerField(source="dataset.row_count")
    good_row_count = serializers.IntegerField(source="dataset.good_row_count")
    made_by = serializers.CharField(
        help_text="What made it of an earlier version; empty for an upload."
    )
    is_latest = serializers.BooleanField(help_text="Whether lists show this one for the dataset.")
    archived_at = serializers.DateTimeField(source="dataset.archived_at", allow_null=True)
    created_at = serializers.DateTimeField(source="dataset.created_at")
    url = serializers.CharField(source="dataset.get_absolute_url", help_text="The version's page.")


class DatasetSerializer(serializers.ModelSerializer[Dataset]):
    labels = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)  # type: ignore[var-annotated]
    owner = OwnerField()
    columns = ColumnSerializer(many=True, read_only=True)
    unused = UnusedSerializer(
        many=True, read_only=True, help_text="Fields that no train on this dataset uses."
    )
    good_row_count = serializers.IntegerField(
        read_only=True, help_text="Rows that a train learns from."
    )
    phase = serializers.CharField(
        read_only=True, help_text="What is being done while the status is `checking`."
    )
    ahead = serializers.SerializerMethodField(
        help_text="While its check waits: how many others go first. Null for one that does not "
        "wait."
    )
    progress = serializers.FloatField(
        read_only=True, help_text="Share of the check that is done, 0 to 1."
    )
    repair = serializers.SerializerMethodField(
        help_text="{slug, counts, examples, steps} of a version that a repair made; counts once it "
        "is made, steps {repair: rows} where several repairs made it."
    )
    url = serializers.CharField(
        source="get_absolute_url", read_only=True, help_text="The dataset's page."
    )
    root = serializers.IntegerField(  # type: ignore[assignment]  # DRF's own fields have a root
        source="family",
        read_only=True,
        help_text="Id of the first version, which all versions of a dataset share.",
    )
    versions = serializers.SerializerMethodField(
        help_text="All versions of the dataset, the newest first."
    )

    class Meta:
        model = Dataset
        fields = (
            "id",
            "slug",
            "name",
            "description",
            "labels",
            "status",
            "error",
            "phase",
            "ahead",
            "progress",
            "format",
            "row_count",
            "good_row_count",
            "problem_count",
            "columns",
            "column_map",
            "unused",
            "file_name",
            "file_type",
            "size_bytes",
            "sha256",
            "version",
            "versions",
            "root",
            "parent",
            "repair",
            "hub",
            "licence",
            "owner",
            "shared",
            "created_at",
            "checked_at",
            "archived_at",
            "url",
        )
        read_only_fields = fields

    @extend_schema_field(VersionSerializer(many=True))
    def get_versions(self, dataset: Dataset) -> Any:
        # The view looks them up for all rows of a page at once.
        return VersionSerializer(getattr(dataset, "versions", []), many=True).data

    def get_ahead(self, dataset: Dataset) -> int | None:
        return checks_ahead(dataset)

    def get_repair(self, dataset: Dataset) -> dict[str, Any]:
        repair = dict(dataset.repair)
        # Where a model lies on the server is nobody's business.
        repair.pop("model_path", None)
        return repair


class LabelsField(serializers.ListField):
    """A list, or texts that hold several with commas between, as forms send them."""

    child = serializers.CharField(max_length=1000, allow_blank=True)

    def to_internal_value(self, data: Any) -> list[str]:
        texts = super().to_internal_value(data)
        return [part for text in texts for part in text.split(",")]


class DatasetCreateSerializer(StrictSerializer):
    file = serializers.FileField(
        allow_empty_file=True,
        max_length=None,
        error_messages={"required": "Send the file as multipart/form-data, in the field “file”."},
    )
    name = serializers.CharField(
        max_length=120,
        required=False,
        allow_blank=True,
        default="",
        help_text="The file's name where there is none.",
    )
    description = serializers.CharField(
        max_length=DESCRIPTION_LIMIT, required=False, allow_blank=True, default=""
    )
    labels = LabelsField(required=False, default=list)
    version_of = serializers.CharField(
        max_length=200,
        required=False,
        allow_blank=True,
        default="",
        help_text="Id or slug of the dataset that this file is the next version of.",
    )


class DatasetImportSerializer(StrictSerializer):
    reference = serializers.CharField(
        max_length=300, help_text="org/name or org/name@revision, as on the hub."
    )
    configuration = serializers.CharField(
        max_length=100,
        required=False,
        allow_blank=True,
        default="",
        help_text="Empty: the usual or the only one.",
    )
    split = serializers.CharField(
        max_length=100,
        required=False,
        allow_blank=True,
        default="",
        help_text="Empty: train, or the only one.",
    )
    most_rows = serializers.IntegerField(
        required=False, allow_null=True, default=None, help_text="Null: all rows."
    )
    name = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")
    description = serializers.CharField(
        max_length=DESCRIPTION_LIMIT, required=False, allow_blank=True, default=""
    )
    labels = LabelsField(required=False, default=list)


class DatasetUpdateSerializer(StrictSerializer):
    name = serializers.CharField(max_length=120, required=False)
    description = serializers.CharField(
        max_length=DESCRIPTION_LIMIT, required=False, allow_blank=True
    )
    labels = LabelsField(required=False)
    format = serializers.ChoiceField(
        choices=list(FORMATS),
        required=False,
        help_text="Read the file in this format and check it again.",
    )
    column_map = serializers.DictField(
        child=serializers.CharField(max_length=200, allow_blank=True),
        required=False,
        help_text="{the format's column: the file's column, or nothing where an optional one is "
        "not to be read}",
    )


class MessageSerializer(serializers.Serializer[Any]):
    """A turn. All but role and content are there only where they carry something."""

    role = serializers.ChoiceField(choices=["system", "user", "assistant", "tool"])
    content = serializers.CharField()
    reasoning_content = serializers.CharField(
        required=False, help_text="What an assistant thought, apart from the answer."
    )
    tool_calls = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        help_text='{"id" where the file has one, "type": "function", "function": {"name", '
        '"arguments"}}',
    )
    tool_call_id = serializers.CharField(required=False, help_text="The call that a tool answers.")
    name = serializers.CharField(required=False, help_text="The tool that answers.")
    learned = serializers.BooleanField(
        required=False, help_text="False for an answer that is not to be learned."
    )


class ExampleSerializer(serializers.Serializer[Any]):
    messages = MessageSerializer(many=True, allow_null=True)
    text = serializers.CharField(allow_null=True)
    chosen = MessageSerializer(
        many=True, allow_null=True, help_text="Of a pair: the better answer."
    )
    rejected = MessageSerializer(
        many=True, allow_null=True, help_text="Of a pair: the worse answer."
    )
    label = serializers.BooleanField(  # type: ignore[assignment]  # DRF's own fields have a label
        allow_null=True, help_text="Of a rated answer: whether it is good."
    )
    tools = serializers.ListField(child=serializers.DictField(), allow_null=True)
    notes = serializers.ListField(
        child=serializers.CharField(),
        help_text="Kinds of findings: how the row was read in another way than it is written.",
    )
    unused = serializers.ListField(
        child=serializers.CharField(),
        help_text="Fields of the row that carry something and are not used.",
    )


class RowProblemSerializer(serializers.Serializer[Any]):
    field = serializers.CharField()
    value = serializers.CharField()
    reason = serializers.CharField()


class RowSerializer(serializers.Serializer[Any]):
    line = serializers.IntegerField(
        help_text="Line of the file for JSONL, CSV and text, row number otherwise; from 1."
    )
    values = serializers.DictField(
        allow_null=True, help_text="As in the file; null for a line that cannot be read."
    )
    example = ExampleSerializer(
        allow_null=True, help_text="As the model will see it; null for a bad row."
    )
    problem = RowProblemSerializer(allow_null=True)
    shortened = serializers.BooleanField(help_text="Whether long texts were cut for this answer.")


class ProblemSerializer(serializers.ModelSerializer[DatasetProblem]):
    class Meta:
        model = DatasetProblem
        fields = ("line", "field", "value", "reason")


class BarSerializer(serializers.Serializer[Any]):
    low = serializers.IntegerField()
    high = serializers.IntegerField()
    rows = serializers.IntegerField()


class NoteSerializer(serializers.Serializer[Any]):
    text = serializers.CharField()
    lines = serializers.ListField(
        child=serializers.IntegerField(), help_text="The first rows that it is true of."
    )


class TokenTextSerializer(serializers.Serializer[Any]):
    title = serializers.CharField(allow_blank=True, help_text="Which answer of a pair; else empty.")
    tokens = serializers.ListField(
        child=serializers.ListField(),
        help_text="[text, whether it is learned, whether it is a special token] of each; the first "
        "1,200.",
    )
    count = serializers.IntegerField(help_text="How many tokens there are.")
    learned = serializers.IntegerField(help_text="How many of all are learned.")


class TokenRowSerializer(serializers.Serializer[Any]):
    line = serializers.IntegerField(
        help_text="Line of the file for JSONL and CSV, row number otherwise; from 1."
    )
    problem = serializers.CharField(
        allow_blank=True, help_text="Why the row is not learned from, or nothing."
    )
    findings = serializers.ListField(
        child=serializers.CharField(), help_text="What the model's chat template does to the row."
    )
    texts = TokenTextSerializer(many=True)


class TokenRowsSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(help_text="Whose tokenizer and chat template are used.")
    count = serializers.IntegerField(help_text="How many rows the dataset has.")
    results = TokenRowSerializer(many=True)


class LengthsSerializer(serializers.Serializer[Any]):
    """Tokens a row. Ask again while `ready` is false and `error` empty."""

    model = serializers.CharField(
        allow_null=True, help_text="Whose tokenizer counts; null where there is no model."
    )
    ready = serializers.BooleanField()
    error = serializers.CharField()
    rows = serializers.IntegerField()
    tokens = serializers.IntegerField()
    median = serializers.IntegerField()
    mean = serializers.FloatField()
    p95 = serializers.IntegerField()
    longest = serializers.IntegerField()
    notes = NoteSerializer(many=True, help_text="What the model's chat template does to the rows.")
    bars = BarSerializer(many=True)
