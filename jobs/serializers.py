"""What the API takes and answers about jobs."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.api import StrictSerializer
from core.api_sharing import OwnerField
from jobs.models import Job
from jobs.queue import MOVES
from jobs.rows import LANES, JobRow


class PriorityField(serializers.ChoiceField):
    """low, normal or high, as the number that the database orders by."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(choices=[label.lower() for label in Job.Priority.labels], **kwargs)

    def to_representation(self, value: Any) -> str:
        return str(Job.Priority(value).label).lower()

    def to_internal_value(self, data: Any) -> int:  # type: ignore[override]
        return int(Job.Priority[super().to_internal_value(data).upper()])


class JobErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    advice = serializers.CharField()


class JobSerializer(serializers.Serializer[JobRow]):
    number = serializers.IntegerField(source="job.number")
    kind = serializers.CharField(source="job.kind", help_text="Such as train or dataset-check.")
    kind_title = serializers.CharField(source="kind.title", help_text="The kind in words.")
    name = serializers.CharField(source="job.name", help_text="What it is about.")
    owner = OwnerField(
        source="job.owner.username", help_text="Null for work of the platform itself."
    )
    status = serializers.ChoiceField(source="job.status", choices=Job.Status.choices)
    lane = serializers.ChoiceField(
        choices=list(LANES.values()),
        help_text="Which workers do it: those for tasks that are expected to be short, medium or "
        "long, or those that train.",
    )
    priority = PriorityField(source="job.priority")
    position = serializers.IntegerField(
        help_text="1 for the next of its lane to start, 0 if it does not wait, or not before due_at."
    )
    phase = serializers.CharField(
        source="job.phase", help_text="What it does now, or waits for while it pauses, in words."
    )
    progress = serializers.FloatField(
        allow_null=True, help_text="Share that is done, 0 to 1; null where that is not known."
    )
    attempt = serializers.IntegerField(source="job.attempt")
    worker = serializers.CharField(source="job.worker", help_text="Who works on it, or did last.")
    host = serializers.CharField(source="job.host", help_text="The machine of that worker.")
    devices = serializers.SerializerMethodField(
        help_text="Those of that machine's devices that it has, or had last; empty where the machine "
        "has only one."
    )
    created_at = serializers.DateTimeField(source="job.created_at")
    started_at = serializers.DateTimeField(source="job.started_at", allow_null=True)
    finished_at = serializers.DateTimeField(source="job.finished_at", allow_null=True)
    due_at = serializers.DateTimeField(
        source="job.due_at",
        allow_null=True,
        help_text="It is not begun again before: it has failed, or could not go on.",
    )
    error = serializers.SerializerMethodField(
        help_text="Why it failed, or why its latest attempt did."
    )
    url = serializers.SerializerMethodField(
        help_text="The page of what it is about; null where there is none."
    )
    train = serializers.SerializerMethodField(
        help_text="The id of the train that it is; null for other kinds."
    )

    def get_devices(self, row: JobRow) -> list[str]:
        return row.job.device_labels

    @extend_schema_field(JobErrorSerializer(allow_null=True))
    def get_error(self, row: JobRow) -> dict[str, str] | None:
        job = row.job
        if not job.error_code and not job.error:
            return None

        return {"code": job.error_code, "message": job.error, "advice": job.error_advice}

    def get_url(self, row: JobRow) -> str | None:
        return row.address or None

    def get_train(self, row: JobRow) -> int | None:
        return row.train.pk if row.train is not None else None


class JobMoveSerializer(StrictSerializer):
    to = serializers.ChoiceField(
        choices=MOVES, help_text="Among all for operators, among one's own for others."
    )


class LogSerializer(serializers.Serializer[Any]):
    offset = serializers.IntegerField(help_text="Bytes read so far: send it to continue.")
    size = serializers.IntegerField(help_text="Bytes of the whole log.")
    text = serializers.CharField()


class LogMatchSerializer(serializers.Serializer[Any]):
    offset = serializers.IntegerField(help_text="Byte at which the line begins.")
    text = serializers.CharField(help_text="The line, cut around the match where it is long.")


class LogSearchSerializer(serializers.Serializer[Any]):
    matches = LogMatchSerializer(many=True)
    next = serializers.IntegerField(
        allow_null=True, help_text="Offset to continue from; null at the end of the log."
    )
    size = serializers.IntegerField(help_text="Bytes of the whole log.")
