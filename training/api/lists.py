"""/api/v1/trains/bulk/, labels/ and columns/: what the list of trains offers besides its rows."""

from __future__ import annotations

from dataclasses import asdict

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import errors
from core.requests import reader_of
from training.api.list_serializers import (
    BulkAnswerSerializer,
    BulkRequestSerializer,
    ColumnsSerializer,
    LabelSerializer,
)
from training.pages.columns import columns_choose, columns_reset, columns_shown
from training.train.bulk import bulk_apply, bulk_plan
from training.train.labels import label_suggestions


class TrainBulkView(APIView):
    @extend_schema(
        request=BulkRequestSerializer, responses={200: BulkAnswerSerializer, **errors(400, 401)}
    )
    def post(self, request: Request) -> Response:
        """Stop, label or delete several trains. Each succeeds or fails by itself; `failed` says
        why."""
        body = BulkRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        values = dict(body.validated_data)
        act = bulk_plan if values.pop("check_only") else bulk_apply
        items = act(by=reader_of(request), **values)
        answer = {
            "done": [asdict(item) for item in items if item.ok],
            "failed": [asdict(item) for item in items if not item.ok],
        }

        return Response(BulkAnswerSerializer(answer).data)


class TrainLabelsView(APIView):
    @extend_schema(
        responses={200: LabelSerializer(many=True), **errors(401)}, operation_id="v1_trains_labels"
    )
    def get(self, request: Request) -> Response:
        """The labels of your own trains, the most used first."""
        return Response(
            [{"name": name, "trains": count} for name, count in label_suggestions(request.user)]
        )


class TrainColumnsView(APIView):
    @extend_schema(responses={200: ColumnsSerializer, **errors(401)})
    def get(self, request: Request) -> Response:
        """The columns of the list of trains that you see."""
        return Response({"columns": columns_shown(request.user)})

    @extend_schema(
        request=ColumnsSerializer, responses={200: ColumnsSerializer, **errors(400, 401)}
    )
    def put(self, request: Request) -> Response:
        """Choose the columns of the list of trains."""
        body = ColumnsSerializer(data=request.data)
        body.is_valid(raise_exception=True)

        return Response(
            {"columns": columns_choose(user=request.user, names=body.validated_data["columns"])}
        )

    @extend_schema(request=None, responses={200: ColumnsSerializer, **errors(401)})
    def delete(self, request: Request) -> Response:
        """Back to the columns that everybody begins with."""
        return Response({"columns": columns_reset(user=request.user)})
