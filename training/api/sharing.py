"""/api/v1/trains/<id>/sharing/ and hand-over/."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema

from core import api_sharing
from training.api.serializers import TrainSerializer
from training.models import TrainRun

ANSWERS = {200: TrainSerializer, **api_sharing.REFUSALS}


@extend_schema(responses=ANSWERS)
class TrainSharingView(api_sharing.SharingView):
    queryset = TrainRun.objects.with_related()
    serializer_class = TrainSerializer


@extend_schema(responses=ANSWERS)
class TrainHandOverView(api_sharing.HandOverView):
    queryset = TrainRun.objects.with_related()
    serializer_class = TrainSerializer
