"""The queue's page, and what pages do with the queue: move a train, change how it waits, pause,
resume."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View

from core.errors import UserError
from core.parts import page_or_part, wants_part
from core.redirects import redirect_back
from core.requests import reader_of
from jobs.pages import MOVES
from jobs.queue import job_position
from training.models import TrainRun
from training.pages.queue_page import queue_page
from training.pages.trains import TrainActionView
from training.work.queue import (
    queue_pause,
    queue_resume,
    train_move,
    train_wait,
)


def priority_posted(request: HttpRequest) -> int | None:
    """The priority that a form sends; None for none. Raises UserError for one that there is not."""
    text = request.POST.get("priority", "")
    if not text:
        return None

    for priority in TrainRun.Priority.values:
        if text == str(priority):
            return priority

    raise UserError({"priority": ["There is no such priority."]})


class TrainMoveView(TrainActionView):
    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        run = train_move(run=run, by=reader_of(request), to=request.POST.get("to", ""))
        position = job_position(run)
        messages.success(request, f"{run.name} is now number {position} in the queue.")
        return redirect_back(request, run.get_absolute_url())


class TrainWaitView(TrainActionView):
    """`priority`: its number. `after`: blank, to wait for no other train any more."""

    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        priority = priority_posted(request)
        # A form without this field leaves it as it is.
        after: dict[str, TrainRun | None] = {}
        if request.POST.get("after") == "":
            after["starts_after"] = None

        train_wait(run=run, by=reader_of(request), priority=priority, **after)
        position = job_position(run)
        messages.success(request, f"Saved. {run.name} is number {position} in the queue.")

        return redirect_back(request, run.get_absolute_url())


@method_decorator(page_or_part, name="dispatch")
class QueuePageView(View):
    """The queue, and to htmx what changes of it."""

    def get(self, request: HttpRequest) -> HttpResponse:
        template = "training/_queue.html" if wants_part(request) else "training/queue.html"
        context = queue_page(reader_of(request))
        context["moves"] = MOVES

        return render(request, template, context)


class QueuePauseView(View):
    def post(self, request: HttpRequest) -> HttpResponse:
        queue_pause(by=reader_of(request), reason=request.POST.get("reason", ""))
        messages.success(request, "The queue is paused. Running trains continue.")
        return redirect_back(request, reverse("training:queue"))


class QueueResumeView(View):
    def post(self, request: HttpRequest) -> HttpResponse:
        queue_resume(by=reader_of(request))
        messages.success(request, "The queue is running again. Waiting trains start in turn.")
        return redirect_back(request, reverse("training:queue"))
