"""/api/v1/models/<key>/sharing/ and hand-over/."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema

from core import api_sharing
from core.api import KEY
from models_app.models import BaseModel
from models_app.serializers import BaseModelSerializer

ANSWERS = {200: BaseModelSerializer, **api_sharing.REFUSALS}


@extend_schema(parameters=[KEY], responses=ANSWERS)
class BaseModelSharingView(api_sharing.SharingView):
    queryset = BaseModel.objects.with_related()
    serializer_class = BaseModelSerializer


@extend_schema(parameters=[KEY], responses=ANSWERS)
class BaseModelHandOverView(api_sharing.HandOverView):
    queryset = BaseModel.objects.with_related()
    serializer_class = BaseModelSerializer
