"""/v1/fine_tuning."""

from __future__ import annotations

import re
from typing import Any

from django.db.models import QuerySet
from django.db.models.fields.json import KeyTextTransform
from django.db.models.lookups import Exact
from rest_framework.request import Request
from rest_framework.response import Response

from openai_api.errors import ApiProblem
from openai_api.fine_tuning.events import events_page
from openai_api.fine_tuning.graders import grader_run, grading_of
from openai_api.fine_tuning.jobs import (
    job_advance,
    job_cancel,
    job_create,
    job_find,
    job_of,
    job_pause,
    job_resume,
)
from openai_api.fine_tuning.objects import checkpoint_bodies, checkpoint_id, job_body
from openai_api.idempotency import retry_of
from openai_api.models import FineTuningJob
from openai_api.pages import list_body, rows_page
from openai_api.views.base import OpenAIView
from training.models import Checkpoint

_METADATA = re.compile(r"metadata\[(.{1,64})\]")


class JobsView(OpenAIView):
    def get(self, request: Request) -> Response:
        jobs = FineTuningJob.objects.of(self.reader).with_related().select_related("user")
        rows, has_more = rows_page(
            request,
            _with_metadata(jobs, request),
            find=lambda public_id: job_of(public_id, self.reader),
        )
        bodies = [job_body(job_advance(job)) for job in rows]
        return self.answer(list_body(bodies, has_more=has_more))

    def post(self, request: Request) -> Response:
        job = job_create(user=self.reader, body=self.body, retry=retry_of(request))
        return self.answer(job_body(job))


def _with_metadata(jobs: QuerySet[FineTuningJob], request: Request) -> QuerySet[FineTuningJob]:
    """Those with the pairs in metadata[key]=value of the address; metadata=null: those with
    none."""
    if request.query_params.get("metadata") == "null":
        jobs = jobs.filter(metadata__isnull=True)

    for name, value in request.query_params.items():
        match = _METADATA.fullmatch(name)
        if match is None:
            continue
        if "\x00" in f"{name}{value}":
            raise ApiProblem("No metadata holds a NUL character.", param="metadata")

        jobs = jobs.filter(Exact(KeyTextTransform(match[1], "metadata"), str(value)))

    return jobs


class JobView(OpenAIView):
    def get(self, request: Request, public_id: str) -> Response:
        return self.answer(job_body(job_find(public_id, self.reader)))


class JobActionView(OpenAIView):
    """One of cancel, pause and resume."""

    change: Any = None

    def post(self, request: Request, public_id: str) -> Response:
        job = job_find(public_id, self.reader)
        return self.answer(job_body(type(self).change(job, by=self.reader)))


class JobCancelView(JobActionView):
    change = staticmethod(job_cancel)


class JobPauseView(JobActionView):
    change = staticmethod(job_pause)


class JobResumeView(JobActionView):
    change = staticmethod(job_resume)


class JobEventsView(OpenAIView):
    def get(self, request: Request, public_id: str) -> Response:
        return self.answer(events_page(request, job_find(public_id, self.reader)))


class JobCheckpointsView(OpenAIView):
    def get(self, request: Request, public_id: str) -> Response:
        """Those whose files are there, the newest first."""
        job = job_find(public_id, self.reader)
        kept = Checkpoint.objects.filter(run=job.train_id, kept=True)
        steps = {checkpoint_id(job, row.step): row for row in kept}

        rows, has_more = rows_page(request, kept, find=steps.get, default=10)
        return self.answer(list_body(checkpoint_bodies(job, rows), has_more=has_more))


class GraderValidateView(OpenAIView):
    def post(self, request: Request) -> Response:
        grading_of(self.body.get("grader"))
        return self.answer({"grader": self.body["grader"]})


class GraderRunView(OpenAIView):
    def post(self, request: Request) -> Response:
        body = self.body
        return self.answer(
            grader_run(body.get("grader"), body.get("model_sample"), body.get("item"))
        )
