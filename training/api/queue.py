"""/api/v1/queue/ and how a waiting train moves in it."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import errors
from core.requests import reader_of
from jobs.devices.presence import worker_state
from jobs.serializers import JobMoveSerializer
from training.api.serializers import (
    QueuePauseSerializer,
    QueueSerializer,
    TrainSerializer,
)
from training.api.trains import train_or_404
from training.models import TrainRun
from training.pages.queue_page import queue_page
from training.work.queue import queue_pause, queue_resume, queue_state, train_move, waiting


def queue_answer(request: Request) -> Response:
    """The queue as this reader sees it."""
    state = queue_state()
    page = queue_page(reader_of(request))
    running = TrainRun.objects.active().visible_to(request.user).order_by("pk")
    visible_waiting = waiting().visible_to(request.user)

    answer = {
        "paused": state.paused,
        "paused_at": state.paused_at,
        "paused_by": state.paused_by,
        "reason": state.reason,
        "workers": worker_state().workers,
        "running": list(running.values_list("pk", flat=True)),
        "waiting": list(visible_waiting.values_list("pk", flat=True)),
        "waiting_count": page["waiting_count"],
        "places": page["places"],
        "stations": page["stations"],
    }

    return Response(QueueSerializer(answer).data)


class QueueView(APIView):
    @extend_schema(responses={200: QueueSerializer, **errors(401)})
    def get(self, request: Request) -> Response:
        """Whether trains start, what runs and who waits."""
        return queue_answer(request)


class QueuePauseView(APIView):
    @extend_schema(
        request=QueuePauseSerializer, responses={200: QueueSerializer, **errors(400, 401, 403)}
    )
    def post(self, request: Request) -> Response:
        """Let no further train start; running trains continue. For operators."""
        body = QueuePauseSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        queue_pause(by=reader_of(request), reason=body.validated_data["reason"])

        return queue_answer(request)


class QueueResumeView(APIView):
    @extend_schema(request=None, responses={200: QueueSerializer, **errors(401, 403)})
    def post(self, request: Request) -> Response:
        """Let trains start again. For operators."""
        queue_resume(by=reader_of(request))
        return queue_answer(request)


class TrainMoveView(APIView):
    @extend_schema(
        request=JobMoveSerializer, responses={200: TrainSerializer, **errors(400, 401, 403, 404)}
    )
    def post(self, request: Request, pk: int) -> Response:
        """Move a waiting train in the queue: operators among all of its priority, others among their
        own."""
        run = train_or_404(request, pk)
        body = JobMoveSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        run = train_move(run=run, by=reader_of(request), to=body.validated_data["to"])

        return Response(TrainSerializer(run).data)
