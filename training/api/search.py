"""/api/v1/search/: one question over everything that the reader may see."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import errors
from core.errors import UserError
from core.requests import reader_of
from training.pages.search import LONGEST_QUERY, search_everything


class HitSerializer(serializers.Serializer[Any]):
    title = serializers.CharField()
    note = serializers.CharField(help_text="What tells it from others of its name.")
    url = serializers.CharField(help_text="Its page.")
    icon = serializers.CharField()


class HitGroupSerializer(serializers.Serializer[Any]):
    kind = serializers.CharField(
        help_text="trains, datasets, models, methods, chains, sweeps or pages."
    )
    title = serializers.CharField()
    hits = HitSerializer(many=True)
    more = serializers.CharField(
        help_text="The page with all hits of this kind; blank where they are all here."
    )


class SearchView(APIView):
    @extend_schema(
        parameters=[
            OpenApiParameter(
                "q",
                OpenApiTypes.STR,
                description=f"Words, or the number of a train; at most {LONGEST_QUERY} characters.",
            )
        ],
        responses={200: HitGroupSerializer(many=True), **errors(400, 401)},
        operation_id="v1_search",
    )
    def get(self, request: Request) -> Response:
        """Search trains, datasets, models, methods, chains, sweeps and pages. A few of each kind, the best
        first."""
        text = request.query_params.get("q", "")
        if "\x00" in text or len(text) > LONGEST_QUERY:
            raise UserError({"q": [f"Give a text of at most {LONGEST_QUERY} characters."]})

        return Response(
            [asdict(group) for group in search_everything(user=reader_of(request), text=text)]
        )
