"""What the API takes and answers about trains and the queue."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.api import KeyField, StrictSerializer
from jobs.devices.launchers import ANYWHERE, LAUNCHERS
from jobs.durations import run_seconds
from jobs.queue import job_position
from jobs.serializers import JobErrorSerializer, PriorityField
from models_app.models import VERSION_LIMIT
from models_app.serializers import BaseModelSerializer
from training.models import Checkpoint, MetricRow, Sample, TrainRun
from training.train.durations import run_progress
from training.train.estimate import Estimate, starts_now
from training.train.merging import PRECISIONS
from training.train.record import record_notes, steps_missing
from training.train.standing import activity_of, beside_of
from training.work.reasons import waiting_reason


class LauncherField(serializers.ChoiceField):
    """Where a train may run."""

    def __init__(self, **options: Any) -> None:
        help_text = (
            "Where it may run: local (machines of this platform), ray (the Ray cluster), or blank for "
            "anywhere."
        )
        choices = [(ANYWHERE, "Anywhere"), *LAUNCHERS.items()]
        super().__init__(choices, **{"help_text": help_text} | options)


class EstimateSerializer(serializers.Serializer[Any]):
    seconds = serializers.FloatField()
    error = serializers.FloatField(help_text="Give or take so many seconds.")
    trains = serializers.IntegerField(help_text="How many similar finished trains it is based on.")


class GapSerializer(serializers.Serializer[Any]):
    first_step = serializers.IntegerField()
    last_step = serializers.IntegerField()


class TrainSerializer(serializers.ModelSerializer[TrainRun]):
    method = serializers.SlugRelatedField(slug_field="slug", read_only=True)  # type: ignore[var-annotated]
    base_model = serializers.SlugRelatedField(slug_field="slug", read_only=True)  # type: ignore[var-annotated]
    dataset = serializers.SlugRelatedField(slug_field="slug", read_only=True)  # type: ignore[var-annotated]
    evaluation_dataset = serializers.SlugRelatedField(
        slug_field="slug", read_only=True, allow_null=True
    )  # type: ignore[var-annotated]
    after = serializers.IntegerField(
        source="predecessor.pk",
        default=None,
        read_only=True,
        allow_null=True,
        help_text="Starts once that finished.",
    )
    owner = serializers.CharField(
        source="owner.username", default=None, read_only=True, allow_null=True
    )
    progress = serializers.SerializerMethodField(
        help_text="Share of the steps that are done, 0 to 1."
    )
    queue_position = serializers.SerializerMethodField(
        help_text="1 for the next to start, 0 if it does not wait."
    )
    priority = PriorityField(read_only=True)
    starts_in = serializers.SerializerMethodField(
        help_text="For one that waits, as far as it can be guessed."
    )
    duration_seconds = serializers.SerializerMethodField(help_text="All attempts together.")
    eta_seconds = serializers.FloatField(
        source="seconds_left",
        read_only=True,
        allow_null=True,
        help_text="How long a running train is estimated to need still, with evaluation, sample "
        "answers and saving. "
        "0: the estimate is used up. Null: nothing is estimated.",
    )
    eta_basis = serializers.CharField(
        read_only=True, help_text="What the estimate includes and where it was timed."
    )
    activity = serializers.SerializerMethodField(
        help_text='What it does now, as one sentence; "" once it has ended.'
    )
    last_value = serializers.FloatField(
        read_only=True,
        allow_null=True,
        help_text="The last loss, or the last reward of a method that learns by it.",
    )
    labels = serializers.SerializerMethodField()
    devices = serializers.ListField(
        child=serializers.CharField(),
        source="device_labels",
        read_only=True,
        help_text="Those of its machine's devices that it has, or had last; empty where the machine "
        "has only one.",
    )
    launcher = LauncherField(read_only=True)
    cluster = serializers.CharField(
        read_only=True,
        help_text='The Ray cluster that it runs on, or ran on last; "" for a machine of this platform.',
    )
    beside = serializers.SerializerMethodField(
        help_text="What else uses its devices now, as one sentence; blank for nothing that is known."
    )
    objective = serializers.SerializerMethodField(
        help_text="The metric by which best_value is chosen."
    )
    error = serializers.SerializerMethodField()
    record_gaps = serializers.SerializerMethodField(
        help_text="Steps that are missing from the metrics."
    )
    record_notes = serializers.SerializerMethodField(
        help_text="What is missing from the record or the disk, in sentences; empty for a train "
        "that is whole."
    )
    url = serializers.CharField(
        source="get_absolute_url", read_only=True, help_text="The train's page."
    )

    class Meta:
        model = TrainRun
        fields = (
            "id",
            "name",
            "status",
            "method",
            "method_version",
            "base_model",
            "dataset",
            "evaluation_dataset",
            "owner",
            "shared",
            "parameters",
            "system_prompt",
            "notes",
            "labels",
            "copied_from",
            "branched_from",
            "branch_step",
            "continue_adapter",
            "launcher",
            "cluster",
            "forecast",
            "started_anyway",
            "attempt",
            "host",
            "devices",
            "phase",
            "step",
            "total_steps",
            "epoch",
            "progress",
            "eta_seconds",
            "eta_basis",
            "activity",
            "beside",
            "last_step_at",
            "queue_position",
            "priority",
            "after",
            "starts_in",
            "last_value",
            "last_metrics",
            "last_evaluation",
            "best_value",
            "best_step",
            "objective",
            "error",
            "warnings",
            "facts",
            "outcome",
            "created_at",
            "started_at",
            "finished_at",
            "duration_seconds",
            "record_gaps",
            "record_notes",
            "url",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_labels(self, run: TrainRun) -> list[str]:
        return [label.name for label in run.labels.all()]

    @extend_schema_field(GapSerializer(many=True))
    def get_record_gaps(self, run: TrainRun) -> list[dict[str, int]]:
        return [{"first_step": first, "last_step": last} for first, last in steps_missing(run)]

    def get_record_notes(self, run: TrainRun) -> list[str]:
        return record_notes(run)

    def get_objective(self, run: TrainRun) -> str:
        return run.objective.evaluation

    def get_progress(self, run: TrainRun) -> float:
        return _progress(run)

    def get_queue_position(self, run: TrainRun) -> int:
        """A list brings all places with it, so that they cost one query and not one a train."""
        positions: dict[int, int] | None = self.context.get("queue_positions")
        if positions is None:
            return job_position(run)

        return positions.get(run.pk, 0)

    @extend_schema_field(EstimateSerializer(allow_null=True))
    def get_starts_in(self, run: TrainRun) -> dict[str, Any] | None:
        return _starts_in(run, self.context.get("starts"))

    def get_activity(self, run: TrainRun) -> str:
        # Of a list all would be asked for.
        is_alone = self.context.get("queue_positions") is None
        return activity_of(run, waiting_reason(run) if is_alone else "")

    def get_beside(self, run: TrainRun) -> str:
        return beside_of(run)

    def get_duration_seconds(self, run: TrainRun) -> float | None:
        return run_seconds(run)

    @extend_schema_field(JobErrorSerializer(allow_null=True))
    def get_error(self, run: TrainRun) -> dict[str, str] | None:
        if run.status != TrainRun.Status.FAILED:
            return None

        return {
            "code": run.error_code,
            "message": run.error,
            "advice": run.error_advice,
        }


def _progress(run: TrainRun) -> float:
    if run.status == TrainRun.Status.FINISHED:
        return 1.0

    return run_progress(run) or 0.0


def _starts_in(
    run: TrainRun, estimates: dict[int, Estimate | None] | None = None
) -> dict[str, Any] | None:
    """`estimates`: those of all waiting trains, where they are known already."""
    if run.status != TrainRun.Status.QUEUED:
        return None
    if estimates is None:
        estimates = starts_now()

    estimate = estimates.get(run.pk)
    return asdict(estimate) if estimate is not None else None


class TrainLiveSerializer(TrainSerializer):
    """What changes while a train waits and runs. The answers are written by `live_state`."""

    class Meta(TrainSerializer.Meta):
        fields = (  # type: ignore[assignment]
            "id",
            "name",
            "status",
            "phase",
            "step",
            "total_steps",
            "epoch",
            "progress",
            "eta_seconds",
            "eta_basis",
            "activity",
            "last_step_at",
            "queue_position",
            "starts_in",
            "last_metrics",
            "best_value",
            "best_step",
            "warnings",
            "beside",
        )
        read_only_fields = fields  # type: ignore[assignment]


COMPUTED = ("progress", "eta_seconds", "activity", "beside", "queue_position", "starts_in")
LIVE_COLUMNS = tuple(name for name in TrainLiveSerializer.Meta.fields if name not in COMPUTED)
# What live_state reads of a train.
LIVE_NEEDS = (
    *LIVE_COLUMNS,
    "eta_seconds",
    "eta_at",
    "discards",
    "method",
    "priority",
    "place",
    "host",
    "devices",
    "facts",
)


def live_state(run: TrainRun) -> dict[str, Any]:
    """What TrainLiveSerializer writes, in a third of its time: programs ask often."""
    state = {name: getattr(run, name) for name in LIVE_COLUMNS}
    state["progress"] = _progress(run)
    state["eta_seconds"] = run.seconds_left
    state["activity"] = activity_of(run, waiting_reason(run))
    state["beside"] = beside_of(run)
    state["queue_position"] = job_position(run)
    state["starts_in"] = _starts_in(run)

    return state


class OrderSerializer(StrictSerializer):
    """What a train is made with, whether it is started at once or as a stage of a chain."""

    name = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")
    method = KeyField(help_text="Id or slug, such as lora.")
    dataset = KeyField(help_text="Id or slug.")
    evaluation_dataset = KeyField(
        required=False, allow_null=True, default=None, help_text="Id or slug."
    )
    parameters = serializers.DictField(
        required=False, default=dict, help_text="See the method's parameters_schema."
    )
    system_prompt = serializers.CharField(
        max_length=100_000, required=False, allow_blank=True, default=""
    )
    notes = serializers.CharField(max_length=20_000, required=False, allow_blank=True, default="")
    labels = serializers.ListField(
        child=serializers.CharField(max_length=400),
        required=False,
        default=list,
        max_length=100,
        help_text="Words to sort by. A comma separates words.",
    )
    launcher = LauncherField(required=False, allow_blank=True, default="")


class TrainCreateSerializer(OrderSerializer):
    base_model = KeyField(help_text="Id or slug.")
    continue_adapter = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Continue the adapter of the base model, which was trained here, instead of training a "
        "new one on its merged weights. Rank, targets and all else of the adapter stay.",
    )
    copied_from = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=2**62
    )
    branched_from = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=2**62,
        help_text="A train of the same kind whose weights this one begins with.",
    )
    branch_step = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=2**62,
        help_text="Of the checkpoint of branched_from.",
    )
    start_anyway = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Start it although the forecast says that it cannot fit any device here. For "
        "operators.",
    )
    priority = PriorityField(
        required=False, default=TrainRun.Priority.NORMAL, help_text="high is for operators to give."
    )
    after = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=2**62,
        help_text="A train that has to finish before this one starts.",
    )


class TrainStopSerializer(StrictSerializer):
    discard = serializers.BooleanField(
        default=False, help_text="End it where it is and save nothing more."
    )


class TrainResumeSerializer(StrictSerializer):
    step = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=0,
        max_value=2**62,
        help_text="Of the checkpoint to resume from. Null: the newest whole one. 0: from the "
        "beginning.",
    )


class TrainMergeSerializer(StrictSerializer):
    name = serializers.CharField(
        required=False,
        allow_blank=True,
        default="",
        max_length=120,
        help_text="Blank: the train's name.",
    )
    version = serializers.CharField(
        required=False,
        allow_blank=True,
        default="",
        max_length=VERSION_LIMIT,
        help_text="Blank: the next number under that name.",
    )
    checkpoint = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=2**62,
        help_text="Step of a kept checkpoint. Null: the train's result.",
    )
    precision = serializers.ChoiceField(
        choices=list(PRECISIONS.items()),
        required=False,
        default="auto",
        help_text="How weights are stored.",
    )


class TrainMergedSerializer(serializers.Serializer[Any]):
    model = BaseModelSerializer(
        help_text="Poll it until its status is ready; its proof is there then."
    )


class TrainPlanSerializer(StrictSerializer):
    method = KeyField(help_text="Id or slug, such as lora.")
    base_model = KeyField(required=False, allow_null=True, default=None, help_text="Id or slug.")
    dataset = KeyField(required=False, allow_null=True, default=None, help_text="Id or slug.")
    evaluation_dataset = KeyField(
        required=False, allow_null=True, default=None, help_text="Id or slug."
    )
    continue_adapter = serializers.BooleanField(required=False, default=False)
    start_anyway = serializers.BooleanField(required=False, default=False)
    launcher = LauncherField(required=False, allow_blank=True, default="")
    parameters = serializers.DictField(required=False, default=dict)
    system_prompt = serializers.CharField(
        max_length=100_000, required=False, allow_blank=True, default=""
    )
    branched_from = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=2**62
    )
    branch_step = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=2**62
    )
    labels = serializers.ListField(
        child=serializers.CharField(max_length=400), required=False, default=list, max_length=100
    )
    priority = PriorityField(required=False, default=TrainRun.Priority.NORMAL)
    after = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=2**62
    )


class TrainPreviewSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField(help_text="Whether the train could be started like this.")
    errors = serializers.DictField(help_text="{field: [text]}")  # type: ignore[assignment]
    warnings = serializers.DictField(help_text="{field: text}; they do not stop anything.")
    fixes = serializers.DictField(help_text="{field: [{label, effect, set}]}")
    plan = serializers.DictField(
        allow_null=True, help_text="Effective batch, rows, steps, rows cut."
    )
    disk = serializers.DictField(allow_null=True, help_text="Bytes.")
    time = serializers.DictField(allow_null=True, help_text="Seconds that similar trains took.")
    forecast = serializers.DictField(
        allow_null=True,
        help_text="Memory in bytes: {verdict: fits, tight, does_not_fit or empty, title, missing: why "
        "there is no verdict, devices: [{kind, name, memory, usable, total, low, high, error, basis, "
        "moment, parts: [{name, title, bytes}], verdict}], fixes: [{label, effect, set, total, "
        "verdict}], batch, may_try, away: a machine that could run it was here lately and is not now, so "
        "it is not refused, may_start_anyway}.",
    )
    queue = serializers.DictField()
    worker = serializers.DictField()


class TrainUpdateSerializer(StrictSerializer):
    name = serializers.CharField(max_length=120, required=False)
    notes = serializers.CharField(max_length=20_000, required=False, allow_blank=True)
    labels = serializers.ListField(
        child=serializers.CharField(max_length=400),
        required=False,
        max_length=100,
        help_text="All of them.",
    )
    priority = PriorityField(
        required=False, help_text="While it waits; high is for operators to give."
    )
    after = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=2**62,
        help_text="While it waits: the train that has to finish before. Null: none.",
    )


class QueuePauseSerializer(StrictSerializer):
    reason = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")


class QueuePlaceSerializer(serializers.Serializer[Any]):
    position = serializers.IntegerField(help_text="1 for the next to start.")
    train = serializers.IntegerField(
        source="run.pk",
        default=None,
        allow_null=True,
        help_text="Null for a train that you may not see.",
    )
    name = serializers.CharField(source="run.name", default=None, allow_null=True)
    owner = serializers.CharField(source="run.owner.username", default=None, allow_null=True)
    priority = PriorityField()
    starts_in = EstimateSerializer(source="starts", allow_null=True)
    starts_at = serializers.DateTimeField(allow_null=True, help_text="An estimate.")
    reason = serializers.CharField(
        help_text="Why it waits although it is its turn: it gathers devices, or they are kept for "
        'another, or too few are there; else "".'
    )
    may_move = serializers.BooleanField(help_text="Whether you may give it another place.")
    may_stop = serializers.BooleanField()


class QueueStationSerializer(serializers.Serializer[Any]):
    worker = serializers.CharField()
    host = serializers.CharField()
    device = serializers.DictField(
        help_text='Kind, name, memory; its label is "" for the only device of a machine.'
    )
    is_here = serializers.BooleanField(help_text="Whether the worker answers.")
    is_busy = serializers.BooleanField()
    is_lent = serializers.BooleanField(
        help_text="Whether its device is one of several of a train that is shown at the first of "
        "them."
    )
    kept_for = serializers.IntegerField(
        help_text="While it is free and kept for a train of several devices: of how many; else 0."
    )
    train = serializers.IntegerField(
        source="run.pk",
        default=None,
        allow_null=True,
        help_text="Null where it is free, or for a train of others.",
    )


class QueueSerializer(serializers.Serializer[Any]):
    paused = serializers.BooleanField()
    paused_at = serializers.DateTimeField(allow_null=True)
    paused_by = serializers.CharField(source="paused_by.username", default=None, allow_null=True)
    reason = serializers.CharField()
    workers = serializers.IntegerField(help_text="Workers that could start a train now.")
    running = serializers.ListField(
        child=serializers.IntegerField(), help_text="Ids of trains of yours that run."
    )
    waiting = serializers.ListField(
        child=serializers.IntegerField(), help_text="Ids of yours in line, next first."
    )
    waiting_count = serializers.IntegerField(help_text="Everybody in line.")
    places = QueuePlaceSerializer(
        many=True,
        help_text="The line, others' trains without names: the first 100 places, and your own.",
    )
    stations = QueueStationSerializer(many=True, help_text="Training workers and what each does.")


class TrainCopySerializer(StrictSerializer):
    """What to change in the copy; all else stays."""

    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    base_model = KeyField(required=False)
    continue_adapter = serializers.BooleanField(required=False)
    start_anyway = serializers.BooleanField(required=False)
    launcher = LauncherField(required=False, allow_blank=True)
    dataset = KeyField(required=False)
    evaluation_dataset = KeyField(required=False, allow_null=True)
    parameters = serializers.DictField(required=False, default=dict, help_text="Only what changes.")
    system_prompt = serializers.CharField(max_length=100_000, required=False, allow_blank=True)
    notes = serializers.CharField(max_length=20_000, required=False, allow_blank=True)
    labels = serializers.ListField(
        child=serializers.CharField(max_length=400), required=False, max_length=100
    )


METRIC_COLUMNS = ("seq", "step", "epoch", "split", "time", "values")


class MetricRowSerializer(serializers.ModelSerializer[MetricRow]):
    class Meta:
        model = MetricRow
        fields = METRIC_COLUMNS


class MetricsSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=TrainRun.Status.choices)
    train = TrainLiveSerializer()
    next = serializers.IntegerField(help_text="Send as `after` to get what came since.")
    rows = MetricRowSerializer(many=True)


class SampleSerializer(serializers.ModelSerializer[Sample]):
    class Meta:
        model = Sample
        fields = (
            "index",
            "stage",
            "step",
            "prompt",
            "reference",
            "text",
            "tokens",
            "stopped",
            "rewards",
            "advantage",
        )


class CheckpointSerializer(serializers.ModelSerializer[Checkpoint]):
    class Meta:
        model = Checkpoint
        fields = ("step", "epoch", "value", "size_bytes", "time", "kept")


class VerdictSerializer(serializers.Serializer[Any]):
    headline = serializers.CharField()
    text = serializers.CharField()
    best = serializers.IntegerField(
        allow_null=True, help_text="Id of the train that did best, where that can be said."
    )


class ComparisonSerializer(serializers.Serializer[Any]):
    trains = TrainSerializer(many=True)
    differences = serializers.DictField(
        help_text="{parameter: {train id: value}}, only where the trains differ."
    )
    outcomes = serializers.DictField(help_text="{measure: {train id: value}}")
    comparability = serializers.CharField(
        help_text="Whether their evaluations can be compared, and if not why."
    )
    verdict = VerdictSerializer()
