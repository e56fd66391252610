"""/api/v1/models/: all that the pages can do with base models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from drf_spectacular.utils import extend_schema
from rest_framework import generics
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import KEY, Pagination, errors
from core.api_sharing import OwnedView
from core.listing import StrictFilterBackend
from core.parsers import JSONParser
from core.upload import DiskUploadHandler
from models_app.filters import BaseModelFilter
from models_app.folder_list import folders_offered
from models_app.folders import allowed_roots
from models_app.models import BaseModel
from models_app.passport import passport_ready
from models_app.serializers import (
    BaseModelCreateSerializer,
    BaseModelSerializer,
    BaseModelUpdateSerializer,
    FoldersSerializer,
    PassportSerializer,
)
from models_app.services import (
    model_add,
    model_archive,
    model_delete,
    model_import_cancel,
    model_restore,
    model_retry,
    model_update,
)


class BaseModelView(OwnedView):
    """The models that this reader may see; a stranger's is a 404."""

    queryset = BaseModel.objects.with_related()
    serializer_class: Any = BaseModelSerializer

    def get_model(self) -> BaseModel:
        model: BaseModel = self.get_row()
        return model

    def answer(self, model: BaseModel, status: int = 200) -> Response:
        """The model as it is now, with what its list counts."""
        row = self.get_queryset().get(pk=model.pk)
        body = BaseModelSerializer(row, context={"request": self.request})
        return Response(body.data, status=status)


class BaseModelListView(BaseModelView, generics.ListCreateAPIView[BaseModel]):
    """List base models, or add one."""

    filter_backends = (StrictFilterBackend,)
    pagination_class = Pagination
    filterset_class = BaseModelFilter
    parser_classes = (JSONParser, MultiPartParser)

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        # Before anything looks at the body: from then on Django accepts no other handler.
        request.upload_handlers = [DiskUploadHandler(request)]
        return super().initialize_request(request, *args, **kwargs)

    @extend_schema(
        request={
            "application/json": BaseModelCreateSerializer,
            "multipart/form-data": BaseModelCreateSerializer,
        },
        responses={201: BaseModelSerializer, **errors(400, 401, 413, 507)},
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Begin the import of a folder, a Hugging Face model or a GGUF file; poll the model until
        it is ready."""
        body = BaseModelCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        model = model_add(owner=self.reader, **body.validated_data)

        return self.answer(model, status=201)


class FoldersView(APIView):
    @extend_schema(responses={200: FoldersSerializer, **errors(401)})
    def get(self, request: Request) -> Response:
        """Local folders that can be added, and why others cannot."""
        data = {"roots": [str(root) for root in allowed_roots()], "folders": folders_offered()}
        return Response(FoldersSerializer(data).data)


@extend_schema(parameters=[KEY])
class BaseModelDetailView(BaseModelView):
    @extend_schema(responses={200: BaseModelSerializer, **errors()})
    def get(self, request: Request, key: str) -> Response:
        return Response(self.get_serializer(self.get_model()).data)

    @extend_schema(
        request=BaseModelUpdateSerializer,
        responses={200: BaseModelSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request, key: str) -> Response:
        """Rename or describe the model; its slug stays."""
        model = self.get_model()
        body = BaseModelUpdateSerializer(data=request.data)
        body.is_valid(raise_exception=True)

        model_update(model=model, by=self.reader, **body.validated_data)

        return self.answer(model)

    @extend_schema(responses={204: None, **errors(400, 401, 403, 404)})
    def delete(self, request: Request, key: str) -> Response:
        """Remove the model with its files; refused while trains that started from it are there."""
        model_delete(model=self.get_model(), by=self.reader)
        return Response(status=204)


class BaseModelPassportView(BaseModelView):
    @extend_schema(
        parameters=[KEY],
        responses={200: PassportSerializer, **errors(400, 401, 404)},
    )
    def get(self, request: Request, key: str) -> Response:
        """Where the model is from: hashes of its files, base model, data, code and adapter,
        parameters, licences, machine, measures, proof, and the command that makes it once more.
        Of a shared model without what is its owner's alone."""
        return Response(passport_ready(self.get_model(), self.reader))


class BaseModelActionView(BaseModelView):
    """One change of state, named by the address."""

    action: Callable[..., BaseModel]

    @extend_schema(request=None, responses={200: BaseModelSerializer, **errors(400, 401, 403, 404)})
    def post(self, request: Request, key: str) -> Response:
        model = type(self).action(model=self.get_model(), by=self.reader)
        return self.answer(model)


@extend_schema(description="Offer the model no longer for new trains.", parameters=[KEY])
class BaseModelArchiveView(BaseModelActionView):
    action = staticmethod(model_archive)


@extend_schema(description="Offer the model again.", parameters=[KEY])
class BaseModelRestoreView(BaseModelActionView):
    action = staticmethod(model_restore)


@extend_schema(description="Begin a failed import again.", parameters=[KEY])
class BaseModelRetryView(BaseModelActionView):
    action = staticmethod(model_retry)


@extend_schema(
    description="End an import that waits or runs; it can be tried again.", parameters=[KEY]
)
class BaseModelCancelView(BaseModelActionView):
    action = staticmethod(model_import_cancel)
