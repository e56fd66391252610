"""/api/v1/datasets/: cancelling background work, and beginning it again."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import KEY, errors
from datasets_app.api import MODEL, DatasetView
from datasets_app.lengths import (
    lengths_cancel,
    lengths_of,
    lengths_retry,
    tokenizer_choose,
)
from datasets_app.models import TokenLengths
from datasets_app.serializers import DatasetSerializer
from datasets_app.services import dataset_check_cancel, dataset_check_retry

CHANGED = {200: DatasetSerializer, **errors(400, 401, 403, 404)}


@extend_schema(parameters=[KEY])
class DatasetCheckCancelView(DatasetView):
    @extend_schema(request=None, responses=CHANGED)
    def post(self, request: Request, key: str) -> Response:
        """End the check of a dataset, or the fetching or making of its file. A check that runs ends
        within about a second."""
        dataset = dataset_check_cancel(dataset=self.get_dataset(), by=self.reader)
        return Response(DatasetSerializer(dataset).data)


@extend_schema(parameters=[KEY])
class DatasetCheckRetryView(DatasetView):
    @extend_schema(request=None, responses=CHANGED)
    def post(self, request: Request, key: str) -> Response:
        """Check a dataset again that cannot be used, such as after a check that was cancelled."""
        dataset = dataset_check_retry(dataset=self.get_dataset(), by=self.reader)
        return Response(DatasetSerializer(dataset).data)


class _CountView(DatasetView):
    def get_lengths(self, request: Request) -> TokenLengths:
        tokenizer = tokenizer_choose(request.user, request.query_params.get("model", ""))
        lengths = lengths_of(self.get_dataset(), tokenizer)
        if lengths is None:
            raise exceptions.NotFound(
                "There is no such count: no base model, or a dataset that is not ready."
            )

        return lengths


@extend_schema(parameters=[KEY, MODEL])
class DatasetCountCancelView(_CountView):
    @extend_schema(request=None, responses={204: None, **errors(400, 401, 403, 404)})
    def post(self, request: Request, key: str) -> Response:
        """End the counting of tokens for a base model. Training works without it."""
        lengths_cancel(lengths=self.get_lengths(request), by=self.reader)
        return Response(status=204)


@extend_schema(parameters=[KEY, MODEL])
class DatasetCountRetryView(_CountView):
    @extend_schema(request=None, responses={204: None, **errors(401, 403, 404)})
    def post(self, request: Request, key: str) -> Response:
        """Count tokens again after a count that failed or was cancelled."""
        lengths_retry(lengths=self.get_lengths(request), by=self.reader)
        return Response(status=204)
