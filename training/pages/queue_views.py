"""The queue's page, and what pages do with the queue: move a train, change how it waits, pause,
resume."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views import View

from core.errors import UserError
from core.redirects import redirect_back
from core.requests import reader_of
from training.models import TrainRun
from training.pages.queue_page import queue_page
from training.pages.trains import QUEUE_MOVES, TrainActionView
from training.work.queue import queue_pause, queue_position, queue_resume, train_move, train_wait


class TrainMoveView(TrainActionView):
    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        run = train_move(run=run, by=reader_of(request), to=request.POST.get("to", ""))
        messages.success(request, f"{run.name} is now number {queue_position(run)} in the queue.")
        return redirect_back(request, run.get_absolute_url())


class TrainWaitView(TrainActionView):
    """`priority`: its number. `after`: blank, to wait for no other train any more."""

    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        priority = request.POST.get("priority", "")
        if priority and priority not in map(str, TrainRun.Priority.values):
            raise UserError({"priority": ["There is no such priority."]})

        after: dict[str, TrainRun | None] = (
            {"after": None} if request.POST.get("after") == "" else {}
        )
        train_wait(
            run=run, by=reader_of(request), priority=int(priority) if priority else None, **after
        )
        messages.success(
            request, f"Saved. {run.name} is number {queue_position(run)} in the queue."
        )

        return redirect_back(request, run.get_absolute_url())


class QueuePageView(View):
    """The queue. `?part=1` is what changes of it, for the page that is open."""

    def get(self, request: HttpRequest) -> HttpResponse:
        template = "training/_queue.html" if "part" in request.GET else "training/queue.html"
        return render(request, template, queue_page(reader_of(request)) | {"moves": QUEUE_MOVES})


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
