"""/api/v1/models/KEY/exports/ and /api/v1/exports/: models in the forms that other programs read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import KEY, errors, object_or_404
from core.listing import StrictFilterBackend
from core.requests import reader_of, row_or_404
from exports.downloads import export_download
from exports.filters import ExportFilter
from exports.models import Export, ExportQuerySet
from exports.serializers import (
    ExportCreateSerializer,
    ExportDeliverSerializer,
    ExportSerializer,
)
from exports.services import (
    export_add,
    export_cancel,
    export_compare,
    export_delete,
    export_deliver,
    export_retry,
)
from models_app.models import BaseModel

ANYWAY = OpenApiParameter(
    "anyway",
    OpenApiTypes.BOOL,
    description="true: also where it differs from the trained model.",
)
FILE = OpenApiParameter(
    "file", OpenApiTypes.STR, description="One of the export's files, such as passport.json."
)


class ExportView(generics.GenericAPIView[Export]):
    """The exports of the models that this reader may see; a stranger's is a 404."""

    serializer_class: Any = ExportSerializer
    filter_backends: Any = ()

    def get_queryset(self) -> ExportQuerySet:
        return Export.objects.visible_to(self.request.user).with_related()

    @property
    def reader(self) -> User:
        return reader_of(self.request)

    def get_export(self, pk: int) -> Export:
        return row_or_404(self.get_queryset(), pk)

    def answer(self, export: Export, status: int = 200) -> Response:
        """The export as it is now."""
        row = self.get_queryset().get(pk=export.pk)
        return Response(self.get_serializer(row).data, status=status)


class ExportListView(ExportView, generics.ListAPIView[Export]):
    """List exports, the newest first."""

    filter_backends = (StrictFilterBackend,)
    filterset_class = ExportFilter


class ModelExportsView(ExportView, generics.ListCreateAPIView[Export]):
    """List the exports of a model, the newest first, or make one."""

    filter_backends = (StrictFilterBackend,)
    filterset_class = ExportFilter

    def get_model(self) -> BaseModel:
        visible = BaseModel.objects.visible_to(self.request.user)
        model: BaseModel = object_or_404(visible, self.kwargs["key"])
        return model

    def get_queryset(self) -> ExportQuerySet:
        if getattr(self, "swagger_fake_view", False):
            return Export.objects.none()

        return super().get_queryset().filter(model=self.get_model())

    @extend_schema(
        parameters=[KEY], responses={200: ExportSerializer(many=True), **errors(400, 401, 404)}
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    @extend_schema(
        parameters=[KEY],
        request=ExportCreateSerializer,
        responses={202: ExportSerializer, **errors(400, 401, 403, 404, 507)},
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Export the model in the background; poll the export until it is ready."""
        model = self.get_model()
        body = ExportCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        export = export_add(model=model, by=self.reader, **body.validated_data)

        return self.answer(export, status=202)


class ExportDetailView(ExportView):
    @extend_schema(responses={200: ExportSerializer, **errors(401, 404)})
    def get(self, request: Request, pk: int) -> Response:
        """Show an export: its state, files and proof."""
        return Response(self.get_serializer(self.get_export(pk)).data)

    @extend_schema(responses={204: None, **errors(401, 403, 404)})
    def delete(self, request: Request, pk: int) -> Response:
        """Delete an export with its files. What was delivered stays where it is."""
        export_delete(export=self.get_export(pk), by=self.reader)
        return Response(status=204)


class ExportActionView(ExportView):
    """One change of state, named by the address."""

    action: Callable[..., Export]

    @extend_schema(request=None, responses={200: ExportSerializer, **errors(400, 401, 403, 404)})
    def post(self, request: Request, pk: int) -> Response:
        export = type(self).action(export=self.get_export(pk), by=self.reader)
        return self.answer(export)


@extend_schema(description="End an export that waits or runs; it can be tried again.")
class ExportCancelView(ExportActionView):
    action = staticmethod(export_cancel)


@extend_schema(description="Begin a failed export again.")
class ExportRetryView(ExportActionView):
    action = staticmethod(export_retry)


@extend_schema(description="Compare an export again, where that could not be done.")
class ExportCompareView(ExportActionView):
    action = staticmethod(export_compare)


class ExportDeliverView(ExportView):
    @extend_schema(
        request=ExportDeliverSerializer,
        responses={202: ExportSerializer, **errors(400, 401, 403, 404)},
    )
    def post(self, request: Request, pk: int) -> Response:
        """Create the model of an Ollama export in Ollama, or upload to the hub what was held back or
        refused there."""
        export = self.get_export(pk)
        body = ExportDeliverSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        export_deliver(export=export, by=self.reader, **body.validated_data)

        return self.answer(export, status=202)


class ExportDownloadView(ExportView):
    @extend_schema(
        parameters=[ANYWAY, FILE],
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            **errors(400, 401, 404),
        },
    )
    def get(self, request: Request, pk: int) -> HttpResponseBase:
        """Download an export: a GGUF file as it is, a folder as a ZIP file, or one file of it."""
        anyway = request.query_params.get("anyway", "").lower() == "true"
        file = request.query_params.get("file", "")
        return export_download(self.get_export(pk), self.reader, file=file, anyway=anyway)
