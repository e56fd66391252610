"""/api/v1/methods/: how models can be trained, and with which parameters."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import exceptions, generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import KEY, errors, object_or_404
from core.errors import UserError
from core.ownership import has_right
from methods.changes import method_delete, method_restore, method_retire, method_save
from methods.filters import TrainingMethodFilter
from methods.models import MethodVersion, TrainingMethod
from methods.serializers import (
    DEVICES,
    MethodChangeSerializer,
    MethodCreateSerializer,
    MethodVersionSerializer,
    TrainingMethodSerializer,
)

DEVICE = OpenApiParameter(
    "device", OpenApiTypes.STR, enum=DEVICES, description="Some defaults differ by device."
)


class DeviceView(generics.GenericAPIView[TrainingMethod]):
    """Its serializer knows the device that the query names."""

    serializer_class = TrainingMethodSerializer
    queryset = TrainingMethod.objects.all()

    def get_serializer_context(self) -> dict[str, Any]:
        context: dict[str, Any] = dict(super().get_serializer_context())
        context["device"] = self.device()
        return context

    def device(self) -> str:
        """Raises ValidationError for a device that there is not."""
        device = "cpu"
        # Without a request, the OpenAPI document is being written.
        if self.request is not None:
            device = self.request.query_params.get("device", "cpu")
        if device not in DEVICES:
            raise exceptions.ValidationError({"device": ["Give cpu or cuda."]})

        return device

    def get_method(self) -> TrainingMethod:
        """Offered or retired. Raises NotFound."""
        return object_or_404(self.get_queryset(), self.kwargs["key"])


def right_check(request: Request, right: str) -> None:
    """Raises PermissionDenied for a reader who may not add, change or delete methods (`right`)."""
    if not has_right(request.user, right, TrainingMethod):
        raise exceptions.PermissionDenied(f"You may not {right} methods. Ask an operator.")


@extend_schema_view(
    get=extend_schema(
        parameters=[DEVICE],
        responses={200: TrainingMethodSerializer(many=True), **errors(400, 401)},
    )
)
class TrainingMethodListView(DeviceView, generics.ListAPIView[TrainingMethod]):
    """Methods that are offered, the usual ones first."""

    filterset_class = TrainingMethodFilter

    @extend_schema(
        request=MethodCreateSerializer,
        responses={201: TrainingMethodSerializer, **errors(400, 401, 403)},
    )
    def post(self, request: Request) -> Response:
        """For operators: a new method of a recipe, with defaults and bounds of its own."""
        right_check(request, "add")
        body = MethodCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)

        if TrainingMethod.objects.filter(slug=body.validated_data["slug"]).exists():
            raise UserError({"slug": ["There is a method of that slug already."]})

        method = method_save(TrainingMethod(), by=request.user, **body.validated_data)
        return Response(self.get_serializer(method).data, status=201)


class TrainingMethodDetailView(DeviceView):
    filter_backends = ()
    pagination_class = None

    @extend_schema(
        parameters=[KEY, DEVICE], responses={200: TrainingMethodSerializer, **errors(400, 401, 404)}
    )
    def get(self, request: Request, key: str) -> Response:
        """One method, offered or retired."""
        return Response(self.get_serializer(self.get_method()).data)

    @extend_schema(
        parameters=[KEY],
        request=MethodChangeSerializer,
        responses={200: TrainingMethodSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request, key: str) -> Response:
        """For operators: change its texts, defaults and bounds. Trains that ran keep the version
        they ran with."""
        right_check(request, "change")
        method = self.get_method()
        body = MethodChangeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        method_save(method, by=request.user, **body.validated_data)

        return Response(self.get_serializer(method).data)

    @extend_schema(parameters=[KEY], responses={204: None, **errors(401, 403, 404, 409)})
    def delete(self, request: Request, key: str) -> Response:
        """For operators: remove a method that no train has used."""
        right_check(request, "delete")
        method_delete(self.get_method())
        return Response(status=204)


class MethodVersionsView(APIView):
    @extend_schema(
        parameters=[KEY],
        responses={200: MethodVersionSerializer(many=True), **errors(401, 404)},
        operation_id="v1_methods_versions",
    )
    def get(self, request: Request, key: str) -> Response:
        """Every version of a method, the newest first; a train names the one that it ran with."""
        method = object_or_404(TrainingMethod.objects.all(), key)
        versions = MethodVersion.objects.filter(method=method).select_related("changed_by")
        return Response(MethodVersionSerializer(versions, many=True).data)


class MethodRetireView(APIView):
    @extend_schema(parameters=[KEY], request=None, responses={204: None, **errors(401, 403, 404)})
    def post(self, request: Request, key: str) -> Response:
        """For operators: offer the method no longer. Its trains stay."""
        right_check(request, "change")
        method_retire(object_or_404(TrainingMethod.objects.all(), key))
        return Response(status=204)


class MethodRestoreView(APIView):
    @extend_schema(parameters=[KEY], request=None, responses={204: None, **errors(401, 403, 404)})
    def post(self, request: Request, key: str) -> Response:
        """For operators: offer it again."""
        right_check(request, "change")
        method_restore(object_or_404(TrainingMethod.objects.all(), key))
        return Response(status=204)
