"""Jobs as people see them: what waits, runs and has ended, and one job with its log."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db.models import F
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View

from core.listing import PAGE_ROWS, Facet, active_filters
from core.ownership import may_see_all
from core.parts import page_or_part, wants_part
from core.redirects import redirect_back
from core.requests import reader_of
from core.row_actions import RowActionView
from core.templatetags.display import ordinal
from jobs.filters import JobFilter
from jobs.kinds import kind_of, kinds
from jobs.log import log_read
from jobs.models import Job, JobQuerySet
from jobs.queue import job_move, job_position
from jobs.rows import JobRow, job_or_404, jobs_visible, row_make, rows_make, train_of
from jobs.services import job_delete, job_stop

Status = Job.Status

FIRST_LOG_BYTES = 64 << 10
# Of more that run or wait, the first so many.
MOST_OPEN = 100
FILTERS = ("search", "kind", "status", "owner")
MOVES = (
    ("front", "Move to the front", "arrow-up"),
    ("up", "Move up", "chevron-up"),
    ("down", "Move down", "chevron-down"),
    ("back", "Move to the back", "arrow-down"),
)


# The list


def groups(reader: User, query: QueryDict) -> dict[str, Any]:
    """What runs, what waits and what has ended, under the filters of the query string."""
    matching = JobFilter(query, queryset=jobs_visible(reader)).qs
    running = matching.filter(status__in=Job.ACTIVE).order_by("started_at", "number")
    waiting = matching.filter(status=Status.QUEUED)
    waiting = waiting.order_by("lane", "-priority", "place", "number")
    ended = matching.filter(status__in=Job.ENDED)
    latest = ended.order_by(F("finished_at").desc(nulls_last=True), "-number")
    page = Paginator(latest, PAGE_ROWS).get_page(query.get("page"))

    jobs = [*running[:MOST_OPEN], *waiting[:MOST_OPEN], *page.object_list]
    rows = rows_make(jobs, reader)
    rows_running = [row for row in rows if row.job.status in Job.ACTIVE]
    rows_waiting = [row for row in rows if row.waits]

    return {
        "running": rows_running,
        "running_count": _count(running, len(rows_running)),
        "waiting": rows_waiting,
        "waiting_count": _count(waiting, len(rows_waiting)),
        "ended": [row for row in rows if row.job.ended],
        "page": page,
        "narrowed": any(query.get(name) for name in FILTERS),
        "moves": MOVES,
    }


def _count(jobs: JobQuerySet[Job], shown: int) -> int:
    return shown if shown < MOST_OPEN else jobs.count()


def filters(reader: User, query: QueryDict) -> dict[str, Any]:
    """The menus of the filter, and what is chosen. Whose job it is, is asked by those who see
    everybody's."""
    sees_all = may_see_all(Job, reader)
    known = sorted(kinds(), key=lambda kind: kind.title)
    choices: dict[str, Any] = {
        "kind": [(kind.name, kind.title) for kind in known if sees_all or kind.is_listed],
        "status": Status.choices,
    }
    if sees_all:
        owners = Job.objects.exclude(owner=None).order_by("owner__username")
        names = owners.values_list("owner__username", flat=True).distinct()
        choices["owner"] = [(name, name) for name in names]

    facets = [
        Facet(name, name.capitalize(), values, query.get(name, ""))
        for name, values in choices.items()
    ]
    return {
        "facets": facets,
        "facets_chosen": sum(bool(facet.value) for facet in facets),
        "active_filters": active_filters(query, facets),
    }


@method_decorator(page_or_part, name="dispatch")
class JobListView(View):
    """The list, and to htmx what changes of it."""

    def get(self, request: HttpRequest) -> HttpResponse:
        reader = reader_of(request)
        context = groups(reader, request.GET) | {"here": request.get_full_path()}
        if wants_part(request):
            return render(request, "jobs/_groups.html", context)

        context |= filters(reader, request.GET)
        return render(request, "jobs/list.html", context)


# One job


def detail_context(row: JobRow) -> dict[str, Any]:
    return {
        "row": row,
        "job": row.job,
        "moves": MOVES,
        "here": row.job.get_absolute_url(),
    }


@method_decorator(page_or_part, name="dispatch")
class JobDetailView(View):
    """A job with its log, and to htmx where it stands. One of a kind with pages of its own, such as
    a train, is shown there."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        job = job_or_404(reader_of(request), pk)
        row = row_make(job, reader_of(request))
        if row.train is not None and row.address:
            return redirect(row.address)

        context = detail_context(row)
        if wants_part(request):
            return render(request, "jobs/_detail.html", context)

        context["piece"] = log_read(row.train or job, -FIRST_LOG_BYTES)
        return render(request, "jobs/detail.html", context)


class JobLogDownloadView(View):
    """The log as it is on disk. As an attachment of plain text: no browser runs what is in it."""

    def get(self, request: HttpRequest, pk: int) -> FileResponse:
        job = job_or_404(reader_of(request), pk)
        path = (train_of(job) or job).log_path
        try:
            stream = path.open("rb")
        except FileNotFoundError as error:
            raise Http404("This job has no log.") from error

        return FileResponse(
            stream,
            as_attachment=True,
            filename=f"{job.kind}-{job.number}.log",
            content_type="text/plain",
        )


# What can be done with one


class JobActionView(RowActionView[Job]):
    """A button of a job. It leads back to where it was pressed."""

    def get_row(self, request: HttpRequest, pk: int) -> Job:
        return job_or_404(reader_of(request), pk)

    def address_refused(self, request: HttpRequest, row: Job) -> str:
        return redirect_back(request, row.get_absolute_url()).url


class JobStopView(JobActionView):
    def change(self, request: HttpRequest, row: Job) -> str:
        job = job_stop(job=row, by=reader_of(request))
        subject = f"{kind_of(job).title} of {job.name}"

        if job.status == Status.STOPPING:
            return f"{subject} is stopping."
        if job.status == Status.STOPPED:
            return f"{subject} is stopped."

        return f"{subject} had ended already: {job.get_status_display().lower()}."


class JobMoveView(JobActionView):
    def change(self, request: HttpRequest, row: Job) -> str:
        job = job_move(job=row, by=reader_of(request), to=request.POST.get("to", ""))
        position = job_position(job)
        if not position:
            return f"{job.name} was moved. It is paused and takes that place when it continues."

        return f"{job.name} is now {ordinal(position)} in line."


class JobDeleteView(JobActionView):
    def change(self, request: HttpRequest, row: Job) -> str:
        job_delete(job=row, by=reader_of(request))
        return f"{kind_of(row).title} of {row.name} is deleted, with its log."

    def address_done(self, request: HttpRequest, row: Job) -> str:
        return reverse("jobs:list")
