"""What the pages do with the line: move a train, change how it waits, pause and open the queue."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views import View

from core.errors import UserError
from core.redirects import redirect_back
from training.models import TrainRun
from training.queue import queue_pause, queue_position, queue_resume, train_move, train_wait
from training.views import TrainActionView, reader_of


class TrainMoveView(TrainActionView):
    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        run = train_move(run=run, by=reader_of(request), to=request.POST.get("to", ""))
        messages.success(request, f"{run.name} has place {queue_position(run)} in line.")
        return redirect_back(request, run.get_absolute_url())


class TrainWaitView(TrainActionView):
    """`priority`: its number. `after`: blank, to wait for no other train any more."""

    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        priority = request.POST.get("priority", "")
        if priority and priority not in map(str, TrainRun.Priority.values):
            raise UserError({"priority": ["There is no such priority."]})
        after: dict[str, TrainRun | None] = {"after": None} if request.POST.get("after") == "" else {}
        train_wait(run=run, by=reader_of(request), priority=int(priority) if priority else None, **after)
        messages.success(request, f"{run.name} waits as you said.")
        return redirect_back(request, run.get_absolute_url())


class QueuePauseView(View):
    def post(self, request: HttpRequest) -> HttpResponse:
        queue_pause(by=reader_of(request), reason=request.POST.get("reason", ""))
        messages.success(request, "The queue is paused. Trains that run go on.")
        return redirect("training:list")


class QueueResumeView(View):
    def post(self, request: HttpRequest) -> HttpResponse:
        queue_resume(by=reader_of(request))
        messages.success(request, "The queue is open. Trains start again.")
        return redirect_back(request, reverse("training:list"))
