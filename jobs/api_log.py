"""A job's log in the API: in pieces, and by a search."""

from __future__ import annotations

from dataclasses import asdict

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import errors, whole_number
from core.errors import UserError
from core.requests import LARGEST_ID
from jobs.log import PIECE_BYTES, log_read, log_search
from jobs.models import Job
from jobs.serializers import LogSearchSerializer, LogSerializer

LONGEST_SEARCH = 200


class LogView(APIView):
    """A subclass says whose log it is."""

    def get_job(self, request: Request, pk: int) -> Job:
        """Raises Http404 for one that this reader may not see."""
        raise NotImplementedError

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "offset", OpenApiTypes.INT, description="Bytes; negative counts from the end."
            ),
            OpenApiParameter(
                "limit", OpenApiTypes.INT, description="Bytes at most, up to 262,144."
            ),
        ],
        responses={200: LogSerializer, **errors(400, 401, 404)},
    )
    def get(self, request: Request, pk: int) -> Response:
        """A piece of the raw log."""
        offset = whole_number(request, "offset", 0, least=-LARGEST_ID)
        limit = whole_number(request, "limit", PIECE_BYTES, least=1)
        piece = log_read(self.get_job(request, pk), offset, limit)

        return Response(
            {
                "offset": piece.offset,
                "size": piece.size,
                "text": piece.text,
            }
        )


class LogSearchView(APIView):
    """A subclass says whose log it is."""

    def get_job(self, request: Request, pk: int) -> Job:
        """Raises Http404 for one that this reader may not see."""
        raise NotImplementedError

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "q", OpenApiTypes.STR, required=True, description="Text; the case is ignored."
            ),
            OpenApiParameter("offset", OpenApiTypes.INT, description="Bytes: where to continue."),
        ],
        responses={200: LogSearchSerializer, **errors(400, 401, 404)},
    )
    def get(self, request: Request, pk: int) -> Response:
        """Lines of the log that hold a text. A long log takes several calls: continue at `next` until
        that is null."""
        job = self.get_job(request, pk)
        words = request.query_params.get("q", "")
        if not 0 < len(words) <= LONGEST_SEARCH:
            raise UserError({"q": [f"Give a text of at most {LONGEST_SEARCH} characters."]})

        offset = whole_number(request, "offset", 0)
        matches, following, size = log_search(job, words, offset)

        return Response(
            {
                "matches": [asdict(match) for match in matches],
                "next": following,
                "size": size,
            }
        )
