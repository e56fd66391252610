"""/api/v1/jobs/: all that the pages can do with jobs."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import errors
from core.requests import reader_of
from jobs.api_log import LogSearchView, LogView
from jobs.filters import JobFilter
from jobs.models import Job, JobQuerySet
from jobs.queue import job_move
from jobs.rows import job_or_404, jobs_visible, row_make, rows_make, train_of
from jobs.serializers import JobMoveSerializer, JobSerializer
from jobs.services import job_delete, job_stop


def answer(request: Request, number: int) -> Response:
    """The job as it is now."""
    reader = reader_of(request)
    row = row_make(job_or_404(reader, number), reader)
    return Response(JobSerializer(row).data)


class JobListView(generics.ListAPIView[Job]):
    """List jobs, the newest first: trains, dataset checks, token counts, imports of models."""

    serializer_class: Any = JobSerializer
    filterset_class = JobFilter

    def get_queryset(self) -> JobQuerySet[Job]:
        return jobs_visible(self.request.user)

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        return rows_make(page or [], reader_of(self.request))


class JobDetailView(APIView):
    @extend_schema(responses={200: JobSerializer, **errors(401, 404)})
    def get(self, request: Request, pk: int) -> Response:
        """Show a job."""
        return answer(request, pk)

    @extend_schema(responses={204: None, **errors(400, 401, 403, 404)})
    def delete(self, request: Request, pk: int) -> Response:
        """Delete a job that has ended, with its log. A train is deleted as a train."""
        job_delete(job=job_or_404(reader_of(request), pk), by=reader_of(request))
        return Response(status=204)


class JobStopView(APIView):
    @extend_schema(request=None, responses={200: JobSerializer, **errors(401, 403, 404)})
    def post(self, request: Request, pk: int) -> Response:
        """Stop a job: a waiting one at once, a running one within about a second, and a running
        train after its step. One that has ended stays as it is."""
        job_stop(job=job_or_404(reader_of(request), pk), by=reader_of(request))
        return answer(request, pk)


class JobMoveView(APIView):
    @extend_schema(
        request=JobMoveSerializer, responses={200: JobSerializer, **errors(400, 401, 403, 404)}
    )
    def post(self, request: Request, pk: int) -> Response:
        """Move a waiting job among those that wait for the same workers: operators among all of its
        priority, others among their own."""
        job = job_or_404(reader_of(request), pk)
        body = JobMoveSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        job_move(job=job, by=reader_of(request), to=body.validated_data["to"])

        return answer(request, pk)


class JobLogView(LogView):
    def get_job(self, request: Request, pk: int) -> Job:
        job = job_or_404(reader_of(request), pk)
        return train_of(job) or job


class JobLogSearchView(LogSearchView):
    def get_job(self, request: Request, pk: int) -> Job:
        job = job_or_404(reader_of(request), pk)
        return train_of(job) or job
