"""/api/v1/datasets/: all that the pages can do with datasets."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.db.models import QuerySet
from django.http import FileResponse, HttpRequest
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import exceptions, generics
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import KEY, Pagination, errors, object_or_404
from core.api_sharing import OwnedView
from core.listing import StrictFilterBackend
from core.text import number_of
from core.upload import DiskUploadHandler
from datasets_app.detail import template_notes
from datasets_app.downloads import dataset_download
from datasets_app.filters import DatasetFilter
from datasets_app.histogram import histogram
from datasets_app.importing import dataset_import
from datasets_app.lengths import lengths_of, tokenizer_choose
from datasets_app.models import Dataset, DatasetProblem, TokenLengths
from datasets_app.preview import rows_seen
from datasets_app.serializers import (
    DatasetCreateSerializer,
    DatasetImportSerializer,
    DatasetSerializer,
    DatasetUpdateSerializer,
    LengthsSerializer,
    ProblemSerializer,
    RowSerializer,
    TokenRowsSerializer,
)
from datasets_app.services import (
    dataset_archive,
    dataset_create,
    dataset_delete,
    dataset_restore,
    dataset_update,
)
from datasets_app.token_page import PREVIEW_ROWS
from datasets_app.token_rows import token_rows
from datasets_app.versions import version_of, versions_attach
from engine.chat.row_notes import RowNotes

MODEL = OpenApiParameter("model", OpenApiTypes.STR, description="Slug of a base model.")


class DatasetView(OwnedView):
    """The datasets that this reader may see; a stranger's is a 404."""

    queryset = Dataset.objects.select_related("owner").prefetch_related("labels")
    serializer_class: Any = DatasetSerializer

    def get_dataset(self) -> Dataset:
        dataset: Dataset = self.get_row()
        return dataset

    def paginate_queryset(self, queryset: Any) -> Any:
        """A page of datasets knows the other versions of each."""
        page = super().paginate_queryset(queryset)
        if page and isinstance(page[0], Dataset):
            return versions_attach(page, self.request.user)

        return page

    def answer(self, *datasets: Dataset, status: int = 200, many: bool = False) -> Response:
        """The datasets with their versions; without `many` the one dataset alone."""
        rows = versions_attach(datasets, self.request.user)
        body = DatasetSerializer(rows if many else rows[0], many=many)
        return Response(body.data, status=status)


class DatasetListView(DatasetView, generics.ListCreateAPIView[Dataset]):
    """List datasets, or upload one. Every version is a row of its own; `latest=true` leaves one a
    dataset."""

    filter_backends = (StrictFilterBackend,)
    pagination_class = Pagination
    filterset_class = DatasetFilter
    parser_classes = (MultiPartParser,)

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        # Before anything looks at the body: from then on Django accepts no other handler.
        request.upload_handlers = [DiskUploadHandler(request)]
        return super().initialize_request(request, *args, **kwargs)

    @extend_schema(
        request={"multipart/form-data": DatasetCreateSerializer},
        responses={201: DatasetSerializer, **errors(400, 401, 403, 413, 415, 507)},
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Upload a file. It is checked in the background: ask for the dataset until its status is
        not `checking`."""
        body = DatasetCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        values = body.validated_data
        values["version_of"] = version_of(self.reader, values["version_of"])

        dataset = dataset_create(owner=self.reader, **values)

        return self.answer(dataset, status=201)


class DatasetImportView(DatasetView):
    serializer_class = DatasetImportSerializer

    @extend_schema(
        request=DatasetImportSerializer, responses={201: DatasetSerializer, **errors(400, 401, 507)}
    )
    def post(self, request: Request) -> Response:
        """Fetch a split of a dataset on the Hugging Face hub, in the background, and check it."""
        body = DatasetImportSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        dataset = dataset_import(owner=self.reader, **body.validated_data)

        return self.answer(dataset, status=201)


@extend_schema(parameters=[KEY])
class DatasetDetailView(DatasetView):
    @extend_schema(responses={200: DatasetSerializer, **errors()})
    def get(self, request: Request, key: str) -> Response:
        return self.answer(self.get_dataset())

    @extend_schema(
        request=DatasetUpdateSerializer,
        responses={200: DatasetSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request, key: str) -> Response:
        """Rename, describe, label; or say how the columns are to be read, which has the file
        checked again."""
        dataset = self.get_dataset()
        body = DatasetUpdateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        dataset_update(dataset=dataset, by=self.reader, **body.validated_data)

        return self.answer(self.get_dataset())

    @extend_schema(responses={204: None, **errors(400, 401, 403, 404)})
    def delete(self, request: Request, key: str) -> Response:
        """Remove this version with its file; other versions stay. One that a train used, or of
        which a version was made, can only be archived."""
        dataset_delete(dataset=self.get_dataset(), by=self.reader)
        return Response(status=204)


@extend_schema(parameters=[KEY])
class DatasetArchiveView(DatasetView):
    @extend_schema(request=None, responses={200: DatasetSerializer, **errors(401, 403, 404)})
    def post(self, request: Request, key: str) -> Response:
        """Take it out of the lists and the choices; trains that used it keep it."""
        dataset = dataset_archive(dataset=self.get_dataset(), by=self.reader)
        return self.answer(dataset)


@extend_schema(parameters=[KEY])
class DatasetRestoreView(DatasetView):
    @extend_schema(request=None, responses={200: DatasetSerializer, **errors(401, 403, 404)})
    def post(self, request: Request, key: str) -> Response:
        """Take it back out of the archive."""
        dataset = dataset_restore(dataset=self.get_dataset(), by=self.reader)
        return self.answer(dataset)


class RowSequence:
    """All rows of a dataset as a paginator wants them: only the slice that is asked for is read."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return self.dataset.row_count

    def __getitem__(self, part: slice) -> list[dict[str, Any]]:
        start = part.start or 0
        stop = len(self) if part.stop is None else part.stop
        rows = rows_seen(self.dataset, start, stop - start)
        return [asdict(row) for row in rows]


class RowPagination(Pagination):
    page_size = 10
    max_page_size = 100


@extend_schema(parameters=[KEY])
class DatasetRowsView(DatasetView):
    serializer_class = RowSerializer
    pagination_class = RowPagination

    @extend_schema(
        operation_id="datasets_rows_list",
        parameters=[
            OpenApiParameter("page", OpenApiTypes.INT),
            OpenApiParameter("page_size", OpenApiTypes.INT, description="At most 100."),
        ],
        responses={200: RowSerializer(many=True), **errors(401, 404, 409, 503)},
    )
    def get(self, request: Request, key: str) -> Response:
        """Rows in file order, as they stand in the file and as the model will see them."""
        page = self.paginate_queryset(RowSequence(self.get_dataset()))
        return self.get_paginated_response(page)


@extend_schema(parameters=[KEY])
class DatasetProblemsView(generics.ListAPIView[DatasetProblem]):
    """Bad rows by line; the first 1,000 are kept, `problem_count` of the dataset counts all."""

    serializer_class = ProblemSerializer
    filter_backends = ()

    def get_queryset(self) -> QuerySet[DatasetProblem]:
        if getattr(self, "swagger_fake_view", False):
            return DatasetProblem.objects.none()

        visible = Dataset.objects.visible_to(self.request.user)
        return object_or_404(visible, self.kwargs["key"]).problems.all()


@extend_schema(parameters=[KEY])
class DatasetLengthsView(DatasetView):
    serializer_class = LengthsSerializer

    @extend_schema(parameters=[MODEL], responses={200: LengthsSerializer, **errors()})
    def get(self, request: Request, key: str) -> Response:
        """How many tokens the rows have, counted in the background with a model's tokenizer and
        chat template."""
        dataset = self.get_dataset()
        slug = request.query_params.get("model", "")
        tokenizer = tokenizer_choose(request.user, slug)
        if slug and tokenizer is None:
            raise exceptions.NotFound(f"There is no base model {slug[:80]!r}.")

        # Not saved: what is said of a dataset that cannot be counted.
        lengths = lengths_of(dataset, tokenizer) or TokenLengths()
        notes = template_notes(RowNotes.read(lengths.notes))

        return Response(
            {
                "model": tokenizer.slug if tokenizer else None,
                "ready": lengths.ready,
                "error": lengths.error,
                **asdict(histogram(lengths.rows)),
                "notes": [asdict(note) for note in notes],
            }
        )


@extend_schema(parameters=[KEY])
class DatasetTokensView(DatasetView):
    serializer_class = TokenRowsSerializer

    @extend_schema(
        parameters=[
            MODEL,
            OpenApiParameter(
                "page", OpenApiTypes.INT, description=f"{PREVIEW_ROWS} rows each; from 1."
            ),
        ],
        responses={200: TokenRowsSerializer, **errors(401, 404, 409, 503)},
    )
    def get(self, request: Request, key: str) -> Response:
        """Rows as the model gets them: their tokens, and which of them are learned. Takes some
        seconds."""
        dataset = self.get_dataset()
        slug = request.query_params.get("model", "")
        tokenizer = tokenizer_choose(request.user, slug)
        if tokenizer is None:
            named = f" {slug[:80]!r}" if slug else ""
            raise exceptions.NotFound(f"There is no base model{named}.")

        page = number_of(request.query_params.get("page", "")) or 1
        start = (page - 1) * PREVIEW_ROWS

        return Response(
            {
                "model": tokenizer.slug,
                "count": dataset.row_count,
                "results": token_rows(dataset, tokenizer, start, PREVIEW_ROWS),
            }
        )


@extend_schema(parameters=[KEY])
class DatasetFileView(DatasetView):
    @extend_schema(responses={(200, "application/octet-stream"): OpenApiTypes.BINARY, **errors()})
    def get(self, request: Request, key: str) -> FileResponse:
        """The file as it was uploaded."""
        return dataset_download(self.get_dataset())
