"""/api/v1/datasets/<key>/sharing/ and hand-over/."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema

from core import api_sharing
from core.api import KEY
from datasets_app.models import Dataset
from datasets_app.serializers import DatasetSerializer

ANSWERS = {200: DatasetSerializer, **api_sharing.REFUSALS}


@extend_schema(parameters=[KEY], responses=ANSWERS)
class DatasetSharingView(api_sharing.SharingView):
    queryset = Dataset.objects.all()
    serializer_class = DatasetSerializer


@extend_schema(parameters=[KEY], responses=ANSWERS)
class DatasetHandOverView(api_sharing.HandOverView):
    queryset = Dataset.objects.all()
    serializer_class = DatasetSerializer
