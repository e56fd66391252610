"""/api/v1/trains/: all that the pages can do with trains."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import exceptions, generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import by_id_or_slug, errors, whole_number
from core.errors import UserError
from core.requests import reader_of, row_or_404
from datasets_app.models import Dataset
from jobs.api_log import LogSearchView, LogView
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.api.serializers import (
    LIVE_NEEDS,
    METRIC_COLUMNS,
    CheckpointSerializer,
    ComparisonSerializer,
    MetricsSerializer,
    SampleSerializer,
    TrainCopySerializer,
    TrainCreateSerializer,
    TrainLiveSerializer,
    TrainPlanSerializer,
    TrainPreviewSerializer,
    TrainResumeSerializer,
    TrainSerializer,
    TrainStopSerializer,
    TrainUpdateSerializer,
    live_state,
)
from training.form.preview import train_preview
from training.models import Checkpoint, Sample, TrainRun, TrainRunQuerySet
from training.pages.compare import FEWEST_TRAINS, MOST_TRAINS, comparison, ids_parse
from training.pages.downloads import model_download
from training.train.branching import Origin
from training.train.carrying_on import GIVEN_PARAMETERS
from training.train.estimate import starts_now
from training.train.filters import TrainFilter
from training.train.resuming import train_resume
from training.train.services import train_create, train_delete, train_save, train_stop, train_update
from training.train.verdict import comparability, verdict
from training.work.queue import queue_positions, train_wait

METRIC_ROWS = 5000
# Fields of a train that stand beside its parameters.
BESIDE = (
    "",
    "name",
    "system_prompt",
    "notes",
    "method",
    "base_model",
    "dataset",
    "evaluation_dataset",
    "after",
    "priority",
    "branched_from",
    "branch_step",
    "continue_adapter",
    "launcher",
    "memory",
    "labels",
)


def visible_trains(request: Request) -> TrainRunQuerySet:
    return TrainRun.objects.visible_to(request.user).with_related()


def train_or_404(request: Request, pk: int) -> TrainRun:
    """A train that this reader may see; a stranger's is not found."""
    return row_or_404(visible_trains(request), pk)


def trains_to_serialize(request: Request) -> TrainRunQuerySet:
    """What this reader may see, with no more of it than a serializer needs."""
    return TrainRun.objects.visible_to(request.user).for_api()


class TrainListView(generics.ListCreateAPIView[TrainRun]):
    """List trains, or start one."""

    serializer_class = TrainSerializer
    filterset_class = TrainFilter

    def get_queryset(self) -> TrainRunQuerySet:
        return trains_to_serialize(self.request)

    def get_serializer_context(self) -> dict[str, Any]:
        return {
            **super().get_serializer_context(),
            "queue_positions": queue_positions(),
            "starts": starts_now(),
        }

    @extend_schema(
        request=TrainCreateSerializer,
        responses={201: TrainSerializer, 200: TrainSerializer, **errors(400, 401, 507)},
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="Sending the same key again answers 200 with the train of the first "
                "call.",
            )
        ],
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        body = TrainCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data = dict(body.validated_data)

        data["copied_from"] = other_train(request, "copied_from", data["copied_from"])
        data["branch"] = branch_of(request, data.pop("branched_from"), data.pop("branch_step"))
        data["starts_after"] = other_train(request, "after", data.pop("after"))

        key = request.headers.get("Idempotency-Key", "")
        run, created = create(reader_of(request), data, key[:200])
        status = 201 if created else 200

        return Response(TrainSerializer(run).data, status=status)


def other_train(request: Request, field: str, pk: int | None) -> TrainRun | None:
    """The train that a field of the body names. Raises ValidationError at that field."""
    if pk is None:
        return None

    visible = visible_trains(request)
    run = visible.filter(pk=pk).first()
    if run is None:
        raise exceptions.ValidationError({field: ["There is no such train."]})

    return run


def branch_of(request: Request, train: int | None, step: int | None) -> Origin | None:
    """The checkpoint that a body names with `branched_from` and `branch_step`. Raises
    ValidationError where it names only half of it, or a train that this reader cannot see."""
    if (train is None) != (step is None):
        raise exceptions.ValidationError(
            {"branch_step": ["Give branched_from and branch_step together."]}
        )

    run = other_train(request, "branched_from", train)
    return Origin(run, step) if run is not None and step is not None else None


def create(by: User, data: dict[str, Any], key: str = "") -> tuple[TrainRun, bool]:
    """train_create with ids and slugs looked up, and errors of parameters under `parameters.`."""
    values = data | ingredients(by, data)
    try:
        return train_create(owner=by, idempotency_key=key or None, **values)
    except UserError as error:
        raise with_parameters_named(error, BESIDE) from error


def with_parameters_named(error: UserError, beside: tuple[str, ...]) -> UserError:
    """The same refusal, with the fields of parameters where the body has them: all but those that
    stand `beside` the parameters."""
    fields = {}
    for name, texts in error.fields.items():
        path = name if name in beside else f"parameters.{name}"
        fields[path] = texts

    return UserError(fields, code=error.code, status=error.status)


def ingredients(by: User, data: dict[str, Any]) -> dict[str, Any]:
    """{name: row} of method, base model and datasets that a body names by id or slug, None for one
    that it leaves out with null. Raises UserError by field for what `by` cannot see."""
    datasets = Dataset.objects.visible_to(by)
    sources: dict[str, tuple[QuerySet[Any], str]] = {
        "method": (TrainingMethod.objects.all(), "method"),
        "base_model": (BaseModel.objects.visible_to(by), "base model"),
        "dataset": (datasets, "dataset"),
        "evaluation_dataset": (datasets, "dataset"),
    }

    chosen: dict[str, Any] = {}
    missing: dict[str, list[str]] = {}

    for name, (rows, word) in sources.items():
        key = data.get(name)
        if key is None:
            continue

        chosen[name] = by_id_or_slug(rows, key)
        if chosen[name] is None:
            missing[name] = [f"There is no {word} {key[:80]!r}."]

    if missing:
        raise UserError(missing)

    return chosen


class TrainPlanView(APIView):
    @extend_schema(
        request=TrainPlanSerializer, responses={200: TrainPreviewSerializer, **errors(400, 401)}
    )
    def post(self, request: Request) -> Response:
        """What a train would do: steps, rows, what would be cut, obstacles by field. Nothing is
        started."""
        body = TrainPlanSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data = dict(body.validated_data)
        chosen = ingredients(reader_of(request), data)

        return Response(
            train_preview(
                owner=reader_of(request),
                method=chosen["method"],
                base_model=chosen.get("base_model"),
                dataset=chosen.get("dataset"),
                evaluation_dataset=chosen.get("evaluation_dataset"),
                parameters=data["parameters"],
                system_prompt=data["system_prompt"],
                priority=data["priority"],
                branch=branch_of(request, data["branched_from"], data["branch_step"]),
                starts_after=other_train(request, "after", data["after"]),
                labels=data["labels"],
                continue_adapter=data["continue_adapter"],
                start_anyway=data["start_anyway"],
                launcher=data["launcher"],
            )
        )


class TrainDetailView(APIView):
    @extend_schema(responses={200: TrainSerializer, **errors()})
    def get(self, request: Request, pk: int) -> Response:
        run = row_or_404(trains_to_serialize(request), pk)
        return Response(TrainSerializer(run).data)

    @extend_schema(
        request=TrainUpdateSerializer,
        responses={200: TrainSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request, pk: int) -> Response:
        """Rename the train, change its notes, or how it waits."""
        run = train_or_404(request, pk)
        body = TrainUpdateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data = dict(body.validated_data)
        waits = {}

        if "priority" in data:
            waits["priority"] = data.pop("priority")
        if "after" in data:
            waits["starts_after"] = other_train(request, "after", data.pop("after"))
        if waits:
            run = train_wait(run=run, by=reader_of(request), **waits)

        run = train_update(run=run, by=reader_of(request), **data)
        return Response(TrainSerializer(run).data)

    @extend_schema(responses={204: None, **errors(400, 401, 403, 404)})
    def delete(self, request: Request, pk: int) -> Response:
        """Remove an ended train with its files."""
        train_delete(run=train_or_404(request, pk), by=reader_of(request))
        return Response(status=204)


def live_train_or_404(request: Request, pk: int) -> TrainRun:
    """The train with those columns alone that live_state reads."""
    visible = TrainRun.objects.visible_to(request.user)
    return row_or_404(visible.only(*LIVE_NEEDS), pk)


class TrainLiveView(APIView):
    @extend_schema(responses={200: TrainLiveSerializer, **errors()})
    def get(self, request: Request, pk: int) -> Response:
        """What changes while a train waits and runs, for programs that ask often."""
        return Response(live_state(live_train_or_404(request, pk)))


class TrainMetricsView(APIView):
    @extend_schema(
        parameters=[
            OpenApiParameter("after", OpenApiTypes.INT, description="Only rows with a higher seq.")
        ],
        responses={200: MetricsSerializer, **errors(400, 401, 404)},
    )
    def get(self, request: Request, pk: int) -> Response:
        """Logged steps in order, at most 5,000 at a time, and how the train stands."""
        run = live_train_or_404(request, pk)
        after = whole_number(request, "after", 0)
        newer = run.metrics.filter(seq__gt=after)
        # Without a serializer, which takes twice the time: programs ask often.
        rows = list(newer.values(*METRIC_COLUMNS)[:METRIC_ROWS])

        return Response(
            {
                "status": run.status,
                "train": live_state(run),
                "next": rows[-1]["seq"] if rows else after,
                "rows": rows,
            }
        )


class TrainLogView(LogView):
    def get_job(self, request: Request, pk: int) -> TrainRun:
        return train_or_404(request, pk)


class TrainLogSearchView(LogSearchView):
    def get_job(self, request: Request, pk: int) -> TrainRun:
        return train_or_404(request, pk)


class TrainSamplesView(generics.ListAPIView[Sample]):
    """Held-out prompts and what the model said before and after."""

    serializer_class = SampleSerializer
    pagination_class = None
    filter_backends = ()

    def get_queryset(self) -> QuerySet[Sample]:
        if getattr(self, "swagger_fake_view", False):
            return Sample.objects.none()

        run = train_or_404(self.request, self.kwargs["pk"])
        return run.samples.all()


class TrainCheckpointsView(generics.ListAPIView[Checkpoint]):
    """Checkpoints of the train, whether they are still on the disk or not."""

    serializer_class = CheckpointSerializer
    pagination_class = None
    filter_backends = ()

    def get_queryset(self) -> QuerySet[Checkpoint]:
        if getattr(self, "swagger_fake_view", False):
            return Checkpoint.objects.none()

        run = train_or_404(self.request, self.kwargs["pk"])
        return run.checkpoints.all()


class TrainStopView(APIView):
    @extend_schema(
        request=TrainStopSerializer, responses={200: TrainSerializer, **errors(400, 401, 403, 404)}
    )
    def post(self, request: Request, pk: int) -> Response:
        """Stop: a waiting train at once, a running one after its step, with a checkpoint and a
        usable model."""
        run = train_or_404(request, pk)
        body = TrainStopSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        run = train_stop(run=run, by=reader_of(request), **body.validated_data)

        return Response(TrainSerializer(run).data)


class TrainSaveView(APIView):
    @extend_schema(request=None, responses={200: TrainSerializer, **errors(400, 401, 403, 404)})
    def post(self, request: Request, pk: int) -> Response:
        """Save a checkpoint after the step that the train is at."""
        run = train_or_404(request, pk)
        run = train_save(run=run, by=reader_of(request))

        return Response(TrainSerializer(run).data)


class TrainResumeView(APIView):
    @extend_schema(
        request=TrainResumeSerializer,
        responses={200: TrainSerializer, **errors(400, 401, 403, 404, 507)},
    )
    def post(self, request: Request, pk: int) -> Response:
        """Resume a train that was stopped or failed from a checkpoint: the same train, its next
        attempt."""
        run = train_or_404(request, pk)
        body = TrainResumeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        run = train_resume(run=run, by=reader_of(request), **body.validated_data)

        return Response(TrainSerializer(run).data)


class TrainCopyView(APIView):
    @extend_schema(
        request=TrainCopySerializer, responses={201: TrainSerializer, **errors(400, 401, 404, 507)}
    )
    def post(self, request: Request, pk: int) -> Response:
        """Start a train with this one's values, and with what the body changes."""
        origin = train_or_404(request, pk)
        body = TrainCopySerializer(data=request.data)
        body.is_valid(raise_exception=True)
        changes = dict(body.validated_data)
        kept = origin.parameters
        if changes.get("continue_adapter", origin.continue_adapter):
            # The adapter gives these, and that of another base model gives others.
            kept = {name: kept[name] for name in kept if name not in GIVEN_PARAMETERS}

        changes["parameters"] = kept | changes["parameters"]
        run, _ = create(reader_of(request), values_of(origin) | changes)

        return Response(TrainSerializer(run).data, status=201)


def values_of(origin: TrainRun) -> dict[str, Any]:
    """What a body would say to start the same train again, its parameters apart."""
    evaluation = origin.evaluation_dataset_id
    return {
        "name": f"{origin.name[:115]}-copy",
        "method": str(origin.method_id),
        "base_model": str(origin.base_model_id),
        "continue_adapter": origin.continue_adapter,
        "dataset": str(origin.dataset_id),
        "evaluation_dataset": str(evaluation) if evaluation else None,
        "system_prompt": origin.system_prompt,
        "notes": origin.notes,
        "labels": [label.name for label in origin.labels.all()],
        "launcher": origin.launcher,
        "copied_from": origin,
    }


class TrainModelView(APIView):
    @extend_schema(responses={(200, "application/zip"): OpenApiTypes.BINARY, **errors()})
    def get(self, request: Request, pk: int) -> StreamingHttpResponse:
        """The adapter or model as a ZIP file."""
        return model_download(train_or_404(request, pk))


class TrainCompareView(APIView):
    @extend_schema(
        parameters=[
            OpenApiParameter(
                "ids", OpenApiTypes.STR, required=True, description="2 to 8 ids: 3,5,8"
            )
        ],
        responses={200: ComparisonSerializer, **errors(400, 401, 404)},
    )
    def get(self, request: Request) -> Response:
        """Two to eight trains side by side: what differs, and how each came out."""
        ids = ids_parse(request.query_params.get("ids", ""))
        if not FEWEST_TRAINS <= len(ids) <= MOST_TRAINS:
            message = f"Give {FEWEST_TRAINS} to {MOST_TRAINS} different ids, such as 3,5."
            raise exceptions.ValidationError({"ids": [message]})

        by_id = visible_trains(request).in_bulk(ids)
        if len(by_id) < len(ids):
            raise exceptions.NotFound()

        trains = [by_id[pk] for pk in ids]
        answer = comparison(trains)
        answer["comparability"] = comparability(trains)
        answer["verdict"] = verdict(trains).for_api()
        answer["trains"] = TrainSerializer(trains, many=True).data

        return Response(answer)
