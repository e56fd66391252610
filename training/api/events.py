"""/api/v1/trains/<id>/events/: a train as it goes on, as server-sent events."""

from __future__ import annotations

from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.models import Token
from core.api import errors, whole_number
from training.api.trains import live_train_or_404
from training.pages.live_access import SessionAccess, TokenAccess
from training.pages.live_feed import Access, follow, once


class EventRenderer(BaseRenderer):
    """For the negotiation alone: what is sent is made by training.pages.live_feed."""

    media_type = "text/event-stream"
    format = "events"

    def render(self, data: Any, media_type: Any = None, context: Any = None) -> bytes:
        # An error, which goes to a client that takes nothing else.
        return JSONRenderer().render(data)


class TrainEventsView(APIView):
    renderer_classes = (JSONRenderer, EventRenderer)

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "after",
                OpenApiTypes.INT,
                description="Rows with a higher seq come first; without it only new ones come. The "
                "header Last-Event-ID, as browsers send it, takes its place.",
            ),
        ],
        responses={
            (200, "text/event-stream"): OpenApiResponse(
                OpenApiTypes.ANY,
                description="Events whose data is what metrics/ answers, with `now`, the server's "
                "Unix seconds. `ended`: the train has ended. `closed`: you may not see it any more. "
                "`alive`: nothing is new.",
            ),
            **errors(400, 401, 404),
        },
    )
    def get(self, request: Request, pk: int) -> StreamingHttpResponse:
        """Follow a train: its state and every logged step, as server-sent events. After a break go
        on with the last event's id."""
        live_train_or_404(request, pk)
        after = newest_row_known(request)
        events: Any = once(pk, after)
        if isinstance(request._request, ASGIRequest):
            events = follow(pk, after, access_of(request, pk))

        response = StreamingHttpResponse(events, content_type="text/event-stream")
        response["Cache-Control"] = "no-store"
        # nginx would collect events before it passes them on.
        response["X-Accel-Buffering"] = "no"
        return response


def newest_row_known(request: Request) -> int | None:
    known = request.headers.get("Last-Event-ID", "")
    if known.isascii() and known.isdigit() and len(known) < 19:
        return int(known)

    return whole_number(request, "after", 0) if "after" in request.query_params else None


def access_of(request: Request, pk: int) -> Access:
    """What is asked again and again while somebody follows."""
    if isinstance(request.auth, Token):
        return TokenAccess(request.auth.pk, pk)

    return SessionAccess(str(request.session.session_key), pk)
