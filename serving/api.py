"""/api/v1/serving/: what is loaded and answers, for operators."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import errors
from core.requests import reader_of
from serving.overview import change_check, model_unload, overview, policy_change
from serving.serializers import PolicySerializer, ServingSerializer, UnloadSerializer


def serving_answer(request: Request) -> Response:
    return Response(ServingSerializer(overview(reader_of(request))).data)


class ServingView(APIView):
    @extend_schema(responses={200: ServingSerializer, **errors(401, 403)})
    def get(self, request: Request) -> Response:
        """Models that are loaded and answer now, and how they share the device with trains. For
        operators."""
        return serving_answer(request)


class ServingUnloadView(APIView):
    @extend_schema(
        request=UnloadSerializer, responses={200: ServingSerializer, **errors(400, 401, 403, 503)}
    )
    def post(self, request: Request) -> Response:
        """Unload a model now; answers that it is writing are cut off. For operators."""
        change_check(reader_of(request))
        body = UnloadSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        model_unload(base_key=body.validated_data["base_key"], by=reader_of(request))

        return serving_answer(request)


class ServingPolicyView(APIView):
    @extend_schema(
        request=PolicySerializer, responses={200: ServingSerializer, **errors(400, 401, 403)}
    )
    def patch(self, request: Request) -> Response:
        """Change how models and trains share the device. For operators."""
        change_check(reader_of(request))
        body = PolicySerializer(data=request.data)
        body.is_valid(raise_exception=True)
        policy_change(by=reader_of(request), **body.validated_data)

        return serving_answer(request)
