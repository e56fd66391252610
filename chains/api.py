"""/api/v1/chains/: all that the pages can do with chains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chains.filters import ChainFilter
from chains.models import Chain, ChainQuerySet, Stage
from chains.serializers import (
    ChainCopySerializer,
    ChainCreateSerializer,
    ChainGoOnSerializer,
    ChainSerializer,
    ChainUpdateSerializer,
)
from chains.services import (
    chain_cancel,
    chain_copy,
    chain_create,
    chain_delete,
    chain_go_on,
    chain_order,
    chain_rename,
)
from core import api_sharing
from core.api import errors
from core.errors import UserError
from core.ownership import owner_check
from core.requests import reader_of, row_or_404
from core.text import storable
from training.api.trains import BESIDE, ingredients, other_train

# Fields of a stage that stand beside its parameters.
BESIDE_STAGE = (*BESIDE, "start", "gate")
GATE = {"gate": "gate.kind", "gate_metric": "gate.metric", "gate_value": "gate.value"}


def chain_or_404(request: Request, pk: int) -> Chain:
    return row_or_404(Chain.objects.visible_to(request.user).with_related(), pk)


def answer(request: Request, pk: int, status: int = 200) -> Response:
    """The chain as it is now."""
    chain = Chain.objects.with_related().get(pk=pk)
    return Response(ChainSerializer(chain, context={"request": request}).data, status=status)


def stages_of(by: User, bodies: list[dict[str, Any]]) -> list[Stage]:
    """Stages that are not stored yet. Raises UserError by stage and field for what `by` cannot
    see."""
    stages: list[Stage] = []
    refused: dict[str, list[str]] = {}

    for index, body in enumerate(bodies):
        values = dict(body)
        gate = values.pop("gate")
        if index and values["base_model"] is not None:
            text = "Only the first stage has one: this one starts from the stage before it."
            refused[f"stages.{index}.base_model"] = [text]

        for name in unstorable(values["parameters"]):
            refused[f"stages.{index}.parameters.{name}"] = ["Null characters are not allowed."]

        try:
            values |= ingredients(by, values)
        except UserError as refusal:
            refused |= {f"stages.{index}.{name}": text for name, text in refusal.fields.items()}
            continue

        stages.append(
            Stage(
                **values,
                gate=gate.get("kind", Stage.Gate.FINISHED),
                gate_metric=gate.get("metric", ""),
                gate_value=gate.get("value"),
            )
        )

    if refused:
        raise UserError(refused)

    return stages


def unstorable(parameters: dict[str, Any]) -> list[str]:
    """Names of parameters with a character that no database keeps."""
    wrong = [name for name, value in parameters.items() if storable({name: value}) != {name: value}]
    return [storable(name) for name in wrong]


def named_as_in_the_body(refusal: UserError) -> UserError:
    """The same refusal with the fields of parameters and gates where the body has them."""
    fields = {}
    for name, texts in refusal.fields.items():
        head, _, field = name.rpartition(".")
        if field in GATE:
            name = f"{head}.{GATE[field]}"
        elif head.startswith("stages.") and field not in BESIDE_STAGE:
            name = f"{head}.parameters.{field}"

        fields[name] = texts

    return UserError(fields, code=refusal.code, status=refusal.status)


@contextmanager
def names_of_the_body() -> Iterator[None]:
    """What is refused meanwhile has the names of the body."""
    try:
        yield
    except UserError as refusal:
        raise named_as_in_the_body(refusal) from refusal


class ChainListView(generics.ListCreateAPIView[Chain]):
    """List chains, or order one."""

    serializer_class: Any = ChainSerializer
    filterset_class = ChainFilter

    def get_queryset(self) -> ChainQuerySet:
        return Chain.objects.visible_to(self.request.user).with_related()

    @extend_schema(
        request=ChainCreateSerializer,
        responses={201: ChainSerializer, 200: ChainSerializer, **errors(400, 401, 507)},
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="Sending the same key again answers 200 with the chain of the first "
                "call.",
            )
        ],
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Order a chain: all stages are checked, then the first train joins the queue."""
        by = reader_of(request)
        key = request.headers.get("Idempotency-Key", "")[:200]
        body = ChainCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        if earlier := Chain.of_key(by, key):
            return answer(request, earlier.pk)

        data = dict(body.validated_data)
        after = other_train(request, "after", data.pop("after"))
        stages = stages_of(by, data.pop("stages"))

        try:
            with names_of_the_body(), transaction.atomic():
                chain = chain_create(
                    owner=by, stages=stages, starts_after=after, idempotency_key=key, **data
                )
                chain_order(chain=chain, by=by)
        except IntegrityError:
            # A request with the same key was faster.
            earlier = Chain.of_key(by, key)
            if earlier is None:
                raise

            return answer(request, earlier.pk)

        return answer(request, chain.pk, status=201)


class ChainDetailView(APIView):
    @extend_schema(responses={200: ChainSerializer, **errors()})
    def get(self, request: Request, pk: int) -> Response:
        """Show a chain with its stages."""
        return answer(request, chain_or_404(request, pk).pk)

    @extend_schema(
        request=ChainUpdateSerializer,
        responses={200: ChainSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request, pk: int) -> Response:
        """Rename a chain."""
        chain = chain_or_404(request, pk)
        owner_check(chain, reader_of(request))
        body = ChainUpdateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        if "name" in body.validated_data:
            chain_rename(chain=chain, by=reader_of(request), **body.validated_data)

        return answer(request, pk)

    @extend_schema(responses={204: None, **errors(400, 401, 403, 404)})
    def delete(self, request: Request, pk: int) -> Response:
        """Delete a chain that does not run. Its trains and models stay."""
        chain_delete(chain=chain_or_404(request, pk), by=reader_of(request))
        return Response(status=204)


class ChainRunView(APIView):
    @extend_schema(
        request=None, responses={200: ChainSerializer, **errors(400, 401, 403, 404, 507)}
    )
    def post(self, request: Request, pk: int) -> Response:
        """Run a draft: all stages are checked, then the first train joins the queue."""
        chain = chain_or_404(request, pk)
        with names_of_the_body():
            chain_order(chain=chain, by=reader_of(request))

        return answer(request, pk)


class ChainCancelView(APIView):
    @extend_schema(request=None, responses={200: ChainSerializer, **errors(400, 401, 403, 404)})
    def post(self, request: Request, pk: int) -> Response:
        """Cancel a chain: no further stage starts, and its train that waits or runs is stopped."""
        chain_cancel(chain=chain_or_404(request, pk), by=reader_of(request))
        return answer(request, pk)


class ChainGoOnView(APIView):
    @extend_schema(
        request=ChainGoOnSerializer,
        responses={200: ChainSerializer, **errors(400, 401, 403, 404)},
    )
    def post(self, request: Request, pk: int) -> Response:
        """Let a stopped chain go on from the stage where it stopped, in spite of a closed gate."""
        chain = chain_or_404(request, pk)
        body = ChainGoOnSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        train = other_train(request, "train", body.validated_data["train"])
        chain_go_on(chain=chain, by=reader_of(request), train=train)

        return answer(request, pk)


class ChainCopyView(APIView):
    @extend_schema(
        request=ChainCopySerializer, responses={201: ChainSerializer, **errors(400, 401, 404)}
    )
    def post(self, request: Request, pk: int) -> Response:
        """Copy a chain: a draft of your own with the same stages."""
        chain = chain_or_404(request, pk)
        body = ChainCopySerializer(data=request.data)
        body.is_valid(raise_exception=True)
        copy = chain_copy(chain=chain, by=reader_of(request), **body.validated_data)

        return answer(request, copy.pk, status=201)


ANSWERS = {200: ChainSerializer, **api_sharing.REFUSALS}


@extend_schema(responses=ANSWERS)
class ChainSharingView(api_sharing.SharingView):
    queryset = Chain.objects.with_related()
    serializer_class = ChainSerializer


@extend_schema(responses=ANSWERS)
class ChainHandOverView(api_sharing.HandOverView):
    queryset = Chain.objects.with_related()
    serializer_class = ChainSerializer
