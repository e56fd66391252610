"""/api/v1/sweeps/: all that the pages can do with sweeps."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.request import Request as ApiRequest
from rest_framework.response import Response
from rest_framework.views import APIView

from core import api_sharing
from core.api import errors
from core.errors import UserError
from core.ownership import owner_check
from core.requests import reader_of, row_or_404
from core.text import storable
from jobs.devices.presence import worker_state
from methods.schema import method_fields
from sweeps.checking import Request, sweep_check
from sweeps.filters import SweepFilter
from sweeps.models import Sweep, SweepQuerySet
from sweeps.serializers import (
    SweepCreateSerializer,
    SweepPlanSerializer,
    SweepSerializer,
    SweepUpdateSerializer,
)
from sweeps.services import (
    sweep_continue,
    sweep_delete,
    sweep_pause,
    sweep_rename,
    sweep_start,
    sweep_stop,
)
from training.api.trains import ingredients, other_train
from training.train.launching import device_kind_for

NAMES = ("method", "base_model", "dataset", "evaluation_dataset")


def sweep_or_404(request: ApiRequest, pk: int) -> Sweep:
    return row_or_404(Sweep.objects.visible_to(request.user).with_related(), pk)


def answer(request: ApiRequest, pk: int, status: int = 200) -> Response:
    """The sweep as it is now."""
    sweep = Sweep.objects.with_related().get(pk=pk)
    return Response(SweepSerializer(sweep, context={"request": request}).data, status=status)


def request_of(request: ApiRequest) -> Request:
    """The body as a sweep that is asked for. Raises ValidationError, and UserError by field for
    what the caller cannot see."""
    body = SweepCreateSerializer(data=request.data)
    body.is_valid(raise_exception=True)
    data: dict[str, Any] = dict(body.validated_data)
    by = reader_of(request)

    refused: dict[str, list[str]] = {}
    for part in ("parameters", "space"):
        for name, value in data[part].items():
            if storable({name: value}) != {name: value}:
                refused[f"{part}.{storable(name)}"] = ["Null characters are not allowed."]

    if refused:
        raise UserError(refused)

    after = other_train(request, "after", data.pop("after"))
    chosen = ingredients(by, data)
    rest = {name: value for name, value in data.items() if name not in NAMES}
    both = sorted(set(rest["parameters"]) & set(rest["space"]))
    if both:
        text = "It stands among the parameters too. Give it in one place."
        raise UserError({f"space.{name}": [text] for name in both})

    return Request(
        owner=by,
        method=chosen["method"],
        base_model=chosen["base_model"],
        dataset=chosen["dataset"],
        evaluation_dataset=chosen.get("evaluation_dataset"),
        starts_after=after,
        **rest,
    )


def named_as_in_the_body(asked: Request, fields: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same errors with those of settings where the body has them."""
    known = method_fields(asked.method)
    named = {}
    for name, texts in fields.items():
        if name in asked.space:
            name = f"space.{name}"
        elif name in known or name in asked.parameters:
            name = f"parameters.{name}"

        named[name] = texts

    return named


class SweepListView(generics.ListCreateAPIView[Sweep]):
    """List sweeps, or start one."""

    serializer_class: Any = SweepSerializer
    filterset_class = SweepFilter

    def get_queryset(self) -> SweepQuerySet:
        return Sweep.objects.visible_to(self.request.user).listed()

    @extend_schema(
        request=SweepCreateSerializer,
        responses={201: SweepSerializer, 200: SweepSerializer, **errors(400, 401, 507)},
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="Sending the same key again answers 200 with the sweep of the first "
                "call.",
            )
        ],
    )
    def post(self, request: ApiRequest, *args: Any, **kwargs: Any) -> Response:
        """Start a sweep: everything is checked, and its first trains join the queue within
        seconds."""
        asked = request_of(request)
        key = request.headers.get("Idempotency-Key", "")[:200]
        try:
            sweep, created = sweep_start(asked, idempotency_key=key)
        except UserError as refusal:
            fields = named_as_in_the_body(asked, dict(refusal.fields))
            raise UserError(fields, code=refusal.code, status=refusal.status) from refusal

        return answer(request, sweep.pk, status=201 if created else 200)


class SweepPlanView(APIView):
    @extend_schema(
        request=SweepCreateSerializer, responses={200: SweepPlanSerializer, **errors(400, 401)}
    )
    def post(self, request: ApiRequest) -> Response:
        """Preview a sweep: how many trains it makes, and obstacles by field. Nothing is started."""
        asked = request_of(request)
        check = sweep_check(asked, device=device_kind_for(asked.launcher, worker_state()))
        body = {
            "ok": not check.errors,
            "errors": named_as_in_the_body(asked, check.errors),
            "trains": min(check.trains, settings.SWEEP_TRAINS),
            "combinations": check.combinations,
        }
        return Response(SweepPlanSerializer(body).data)


class SweepDetailView(APIView):
    @extend_schema(responses={200: SweepSerializer, **errors()})
    def get(self, request: ApiRequest, pk: int) -> Response:
        """Show a sweep with its trains."""
        return answer(request, sweep_or_404(request, pk).pk)

    @extend_schema(
        request=SweepUpdateSerializer,
        responses={200: SweepSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: ApiRequest, pk: int) -> Response:
        """Rename a sweep."""
        sweep = sweep_or_404(request, pk)
        owner_check(sweep, reader_of(request))
        body = SweepUpdateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        if "name" in body.validated_data:
            sweep_rename(sweep=sweep, by=reader_of(request), **body.validated_data)

        return answer(request, pk)

    @extend_schema(responses={204: None, **errors(400, 401, 403, 404)})
    def delete(self, request: ApiRequest, pk: int) -> Response:
        """Delete a sweep that does not run. Its trains stay."""
        sweep_delete(sweep=sweep_or_404(request, pk), by=reader_of(request))
        return Response(status=204)


CHANGED = {200: SweepSerializer, **errors(400, 401, 403, 404)}


class SweepPauseView(APIView):
    @extend_schema(request=None, responses=CHANGED)
    def post(self, request: ApiRequest, pk: int) -> Response:
        """Pause a sweep: no further train is added; those that wait or run go on."""
        sweep_pause(sweep=sweep_or_404(request, pk), by=reader_of(request))
        return answer(request, pk)


class SweepStopView(APIView):
    @extend_schema(request=None, responses=CHANGED)
    def post(self, request: ApiRequest, pk: int) -> Response:
        """Stop a sweep: no further train is added, and those that wait or run are stopped."""
        sweep_stop(sweep=sweep_or_404(request, pk), by=reader_of(request))
        return answer(request, pk)


class SweepContinueView(APIView):
    @extend_schema(request=None, responses=CHANGED)
    def post(self, request: ApiRequest, pk: int) -> Response:
        """Continue a paused or stopped sweep: trains that were stopped with it resume."""
        sweep_continue(sweep=sweep_or_404(request, pk), by=reader_of(request))
        return answer(request, pk)


ANSWERS = {200: SweepSerializer, **api_sharing.REFUSALS}


@extend_schema(responses=ANSWERS)
class SweepSharingView(api_sharing.SharingView):
    queryset = Sweep.objects.with_related()
    serializer_class = SweepSerializer


@extend_schema(responses=ANSWERS)
class SweepHandOverView(api_sharing.HandOverView):
    queryset = Sweep.objects.with_related()
    serializer_class = SweepSerializer
