"""/api/v1/methods/: how models can be trained, and with which parameters."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import exceptions, generics
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import errors, object_or_404
from methods.filters import TrainingMethodFilter
from methods.models import TrainingMethod
from methods.serializers import DEVICES, TrainingMethodSerializer

KEY = OpenApiParameter("key", OpenApiTypes.STR, OpenApiParameter.PATH, description="Id or slug.")
DEVICE = OpenApiParameter("device", OpenApiTypes.STR, enum=DEVICES, description="Some defaults differ by device.")


def device_asked(request: Request | None) -> dict[str, Any]:
    """The serializer's context; without a request, the OpenAPI document is being written."""
    device = request.query_params.get("device", "cpu") if request else "cpu"
    if device not in DEVICES:
        raise exceptions.ValidationError({"device": ["Give cpu or cuda."]})
    return {"device": device}


@extend_schema_view(
    get=extend_schema(parameters=[DEVICE], responses={200: TrainingMethodSerializer(many=True), **errors(400, 401)})
)
class TrainingMethodListView(generics.ListAPIView[TrainingMethod]):
    """Methods that are offered, in the order in which to think of them."""

    serializer_class = TrainingMethodSerializer
    filterset_class = TrainingMethodFilter
    queryset = TrainingMethod.objects.all()

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), **device_asked(self.request)}


class TrainingMethodDetailView(generics.GenericAPIView[TrainingMethod]):
    serializer_class = TrainingMethodSerializer
    filter_backends = ()
    pagination_class = None

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), **device_asked(self.request)}

    def get_queryset(self) -> QuerySet[TrainingMethod]:
        return TrainingMethod.objects.all()

    @extend_schema(parameters=[KEY, DEVICE], responses={200: TrainingMethodSerializer, **errors(400, 401, 404)})
    def get(self, request: Request, key: str) -> Response:
        """One method, offered or retired."""
        return Response(self.get_serializer(object_or_404(self.get_queryset(), key)).data)
