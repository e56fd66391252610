"""Model Training: the list of trains, and a train's overview, log and actions."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
)
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views import View
from django.views.generic import TemplateView

from core.errors import UserError
from core.ownership import may_change
from core.redirects import redirect_back
from core.requests import LARGEST_ID, integer_of, reader_of, row_or_404
from engine.contract.rundir import LOG
from jobs.devices.presence import worker_state
from jobs.durations import run_seconds
from jobs.log import log_read
from jobs.pages import MOVES
from jobs.queue import job_position
from training.models import TrainRun
from training.pages.columns import columns_choose, columns_reset
from training.pages.downloads import model_download, train_file_stem
from training.pages.list_table import (
    counts_of,
    narrowed,
    pills_make,
    rows_make,
    strip_make,
    table_page,
)
from training.pages.overview import done_near, has_model, overview
from training.train.durations import run_progress
from training.train.estimate import starts_now
from training.train.labels import label_suggestions
from training.train.merging import train_merge
from training.train.needed import needed_text
from training.train.phases import phases_of
from training.train.record import record_notes
from training.train.remedies import UNKNOWN, evidence, remedies
from training.train.resuming import resumable_steps, resume_obstacle, train_resume
from training.train.services import train_delete, train_save, train_stop, train_update
from training.train.standing import activity_of, beside_of, place_of_end, stop_effect
from training.work.queue import may_manage_queue, queue_positions, queue_state
from training.work.reasons import waiting_reason

LIVE_ROWS = 100
LIVE_CELLS = ("status", "loss", "best", "duration", "started")
FIRST_LOG_BYTES = 64 << 10


def train_or_404(request: HttpRequest, pk: int) -> TrainRun:
    """The train if this reader may see it; a stranger's is not there."""
    visible = TrainRun.objects.visible_to(request.user)
    return row_or_404(visible.with_related(), pk)


def train_for_part_or_404(request: HttpRequest, pk: int) -> TrainRun:
    """The same without what it is made of but its method: for a part of a page that open pages ask
    for again."""
    visible = TrainRun.objects.visible_to(request.user)
    return row_or_404(visible.select_related("method"), pk)


class TrainListView(TemplateView):
    template_name = "training/list.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        return context | table_page(self.request.user, self.request.GET)


class TrainLiveView(View):
    """What the list swaps in place: ?ids= of its rows and &newest= id that it knows, under its own
    filters."""

    def get(self, request: HttpRequest) -> JsonResponse:
        parts = [part for part in request.GET.get("ids", "").split(",") if part]
        ids = []
        for part in parts:
            number = integer_of(part)
            if number is None:
                raise BadRequest("ids are whole numbers, separated by commas.")

            ids.append(number)

        newest_known = integer_of(request.GET.get("newest", ""))
        if newest_known is None:
            newest_known = LARGEST_ID

        visible = TrainRun.objects.visible_to(request.user).with_related()
        runs = visible.filter(pk__in=ids[:LIVE_ROWS])
        places = queue_positions()
        rows = rows_make(runs, request.user, places)
        counts = counts_of(request.user, request.GET)
        strip = strip_make(request.user, places)
        new = narrowed(request.user, request.GET).filter(pk__gt=newest_known)

        return JsonResponse(
            {
                "rows": {row.run.pk: self.cells(row) for row in rows},
                "strip": render_to_string("training/_strip.html", {"strip": strip}, request),
                "running": len(strip["running"]),
                "counts": {pill.title: pill.count for pill in pills_make(request.GET, counts)},
                "new": new.count(),
            }
        )

    def cells(self, row: Any) -> dict[str, str]:
        """{cell: its HTML} of what changes while the page is open."""
        cells = {"state": row.run.status}
        for name in LIVE_CELLS:
            html = render_to_string(f"training/_cell_{name}.html", {"row": row})
            cells[name] = html.strip()

        return cells


class TrainColumnsView(View):
    """Which columns the list shows, sent by a form: for pages without a script."""

    def post(self, request: HttpRequest) -> HttpResponse:
        user = reader_of(request)
        try:
            if "reset" in request.POST:
                columns_reset(user=user)
            else:
                columns_choose(user=user, names=request.POST.getlist("columns"))
        except UserError as error:
            messages.error(request, error.message)

        return redirect_back(request, reverse("training:list"))


class TrainPage(View):
    """One tab of a train's page; the header is the same on all of them."""

    template_name = ""
    tab = ""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = train_or_404(request, pk)
        context = header_context(request, run) | self.tab_context(run)
        return render(request, self.template_name, context)

    def tab_context(self, run: TrainRun) -> dict[str, Any]:
        return {"tab": self.tab, "record_notes": record_notes(run)}


def header_context(request: HttpRequest, run: TrainRun) -> dict[str, Any]:
    """What templates/training/_header.html needs, on every tab."""
    is_own = may_change(run, request.user)
    context = {
        "run": run,
        "may_change": is_own,
        "may_move": is_own or may_manage_queue(request.user),
        "position": job_position(run),
        "moves": MOVES,
        "progress": run_progress(run),
        "activity": activity_of(run),
        "beside": beside_of(run),
        "stop_effect": stop_effect(run),
        "place_of_end": place_of_end(run),
        "seconds": run_seconds(run),
        "done_near": done_near(run) if run.status in TrainRun.ACTIVE else None,
        "has_model": has_model(run),
        "needed": needed_text(run, request.user) if run.ended else "",
        "kept_count": run.checkpoints.filter(kept=True).count(),
        "own_labels": [name for name, _ in label_suggestions(request.user)],
    }

    context |= resume_context(run)
    if run.status == TrainRun.Status.QUEUED:
        context |= waiting_context(request, run)
    if run.status == TrainRun.Status.FAILED:
        context |= failure_context(run)

    return context


def waiting_context(request: HttpRequest, run: TrainRun) -> dict[str, Any]:
    """How a train waits: behind which other one, for which worker, and when it will start."""
    reason = waiting_reason(run)
    starts = starts_now().get(run.pk)
    return {
        "after": visible_predecessor(request, run),
        "worker": worker_state(),
        "queue": queue_state(),
        "starts": starts,
        # Of one that no machine can start now nobody knows when it will.
        "starts_shown": starts is not None or not reason,
        "activity": activity_of(run, reason),
        "priorities": priorities(request, run),
    }


def visible_predecessor(request: HttpRequest, run: TrainRun) -> TrainRun | None:
    """The train for which `run` waits, if this reader may see it."""
    if run.starts_after_id is None:
        return None

    visible = TrainRun.objects.visible_to(request.user)
    predecessor: TrainRun | None = visible.filter(job=run.starts_after_id).first()
    return predecessor


def resume_context(run: TrainRun) -> dict[str, Any]:
    """`resume_steps`: of checkpoints to resume from. `may_begin_again`: where there is none."""
    if resume_obstacle(run):
        return {"resume_steps": [], "may_begin_again": False}

    steps = resumable_steps(run)
    return {
        "resume_steps": steps,
        "may_begin_again": not steps,
    }


def failure_context(run: TrainRun) -> dict[str, Any]:
    """What templates/training/_failure.html needs."""
    return {
        "evidence": evidence(run),
        "remedies": [(remedy.words, remedy.address(run)) for remedy in remedies(run)],
        "is_unknown": run.error_code in UNKNOWN,
    }


def priorities(request: HttpRequest, run: TrainRun) -> list[tuple[int, str]]:
    """Those that this reader can give the train, without the one that it has."""
    refused = {run.priority}
    if not may_manage_queue(request.user):
        refused.add(TrainRun.Priority.HIGH)

    return [(value, label) for value, label in TrainRun.Priority.choices if value not in refused]


class TrainOverviewView(TrainPage):
    template_name = "training/overview.html"
    tab = "overview"

    def tab_context(self, run: TrainRun) -> dict[str, Any]:
        return super().tab_context(run) | overview(run, self.request.user)


class TrainLogPageView(TrainPage):
    template_name = "training/log.html"
    tab = "log"

    def tab_context(self, run: TrainRun) -> dict[str, Any]:
        context = super().tab_context(run)
        context["piece"] = log_read(run, -FIRST_LOG_BYTES)
        context["phases"] = phases_of(run)

        return context


class TrainActionView(View):
    """A change by POST that leads back to where it was asked for; refusals are said there."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = train_or_404(request, pk)
        try:
            return self.act(request, run)
        except UserError as error:
            messages.error(request, error.message)
        except PermissionDenied:
            messages.error(request, "Only the owner of a train and operators can change it.")

        return redirect_back(request, run.get_absolute_url())

    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        raise NotImplementedError


def step_posted(request: HttpRequest, name: str) -> int | None:
    """The step of a checkpoint that a form names; None where it names none. Raises UserError for
    what is no step: a mistyped one must not mean 0, which starts over."""
    text = request.POST.get(name, "")
    if not text:
        return None

    step = integer_of(text)
    if step is None:
        raise UserError({name: ["There is no such checkpoint."]})

    return step


class TrainStopView(TrainActionView):
    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        run = train_stop(run=run, by=reader_of(request), discard="discard" in request.POST)
        if run.status == TrainRun.Status.STOPPING:
            messages.success(request, f"{run.name} is stopping. {stop_effect(run)}")
        elif run.status == TrainRun.Status.STOPPED:
            messages.success(request, f"{run.name} is stopped.")
        else:
            status = run.get_status_display().lower()
            messages.warning(request, f"{run.name} had ended already: {status}.")

        return redirect_back(request, run.get_absolute_url())


class TrainSaveView(TrainActionView):
    """A checkpoint now."""

    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        train_save(run=run, by=reader_of(request))
        messages.success(request, f"{run.name} saves a checkpoint after its step.")
        return redirect_back(request, run.get_absolute_url())


class TrainResumeView(TrainActionView):
    """Resume after the newest whole checkpoint, or after the one that was named; 0: start over."""

    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        step = step_posted(request, "step")
        train_resume(run=run, by=reader_of(request), step=step)
        place = "starts over" if step == 0 else "resumes from its checkpoint"
        messages.success(request, f"{run.name} is back in the queue and {place}.")

        return redirect_back(request, run.get_absolute_url())


class TrainMergeView(TrainActionView):
    """Add to Models."""

    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        model = train_merge(
            run=run,
            by=reader_of(request),
            name=request.POST.get("name", ""),
            version=request.POST.get("version", ""),
            checkpoint=step_posted(request, "checkpoint"),
            precision=request.POST.get("precision", "auto"),
        )

        messages.success(
            request, f"{model.title} is being made. It appears among the models when it is ready."
        )
        return redirect(model)


class TrainDeleteView(TrainActionView):
    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        train_delete(run=run, by=reader_of(request))
        messages.success(request, f"{run.name} and its files are deleted.")
        return redirect("training:list")


class TrainEditView(TrainActionView):
    """Rename, change the notes or the labels: what is not sent stays."""

    def act(self, request: HttpRequest, run: TrainRun) -> HttpResponse:
        labels = [request.POST["labels"]] if "labels" in request.POST else None
        train_update(
            run=run,
            by=reader_of(request),
            name=request.POST.get("name"),
            notes=request.POST.get("notes"),
            labels=labels,
        )

        messages.success(request, "Saved.")
        return redirect_back(request, run.get_absolute_url())


class TrainCopyView(View):
    """Copy the Train: the form of its method, filled with its values."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = train_or_404(request, pk)
        form = reverse("training:form", args=[run.method.slug])
        return redirect(f"{form}?copy={run.pk}")


class TrainDownloadView(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        return model_download(train_or_404(request, pk))


class TrainLogDownloadView(View):
    """The raw log as it is on disk. As an attachment of plain text: no browser runs what is in
    it."""

    def get(self, request: HttpRequest, pk: int) -> FileResponse:
        run = train_or_404(request, pk)
        try:
            stream = (run.directory / LOG).open("rb")
        except FileNotFoundError as error:
            raise Http404("This train has no log yet.") from error

        return FileResponse(
            stream,
            as_attachment=True,
            filename=f"{train_file_stem(run)}.log",
            content_type="text/plain",
        )
