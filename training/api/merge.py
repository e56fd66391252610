"""/api/v1/trains/ID/merge/: what a train learned, made a model of the house."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import errors
from core.requests import reader_of
from models_app.models import BaseModel
from training.api.serializers import TrainMergedSerializer, TrainMergeSerializer
from training.api.trains import train_or_404
from training.train.merging import train_merge


class TrainMergeView(APIView):
    @extend_schema(
        request=TrainMergeSerializer,
        responses={202: TrainMergedSerializer, **errors(400, 401, 403, 404, 507)},
    )
    def post(self, request: Request, pk: int) -> Response:
        """Make what the train learned a model of the house, in the background: merged, and compared
        with what was trained."""
        run = train_or_404(request, pk)
        body = TrainMergeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        made = train_merge(run=run, by=reader_of(request), **body.validated_data)
        model = BaseModel.objects.with_related().get(pk=made.pk)

        return Response(
            TrainMergedSerializer({"model": model}, context={"request": request}).data, status=202
        )
