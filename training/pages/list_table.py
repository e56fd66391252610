"""The list of trains: rows, counts and filters of one page, with a number of queries that does not
grow with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.core.paginator import Page, Paginator
from django.db.models import Count, F, Max, Value
from django.http import QueryDict

from core.listing import PAGE_ROWS, Facet, active_filters
from core.ownership import may_change
from jobs.devices.presence import worker_state
from jobs.durations import run_seconds
from training.models import TrainRun, TrainRunQuerySet
from training.pages.columns import COLUMNS, columns_shown
from training.train.durations import run_progress
from training.train.estimate import Estimate, starts_now
from training.train.filters import TrainFilter
from training.train.labels import label_suggestions
from training.train.starter_train import sample_is_offered
from training.work.queue import queue_positions, queue_state, waiting

Status = TrainRun.Status
Reader = AbstractBaseUser | AnonymousUser

PILLS: tuple[tuple[str, list[str]], ...] = (
    ("All", []),
    ("Running", [Status.RUNNING.value, Status.STOPPING.value]),
    ("Waiting", [Status.QUEUED.value]),
    ("Succeeded", [Status.FINISHED.value]),
    ("Failed", [Status.FAILED.value]),
    ("Stopped", [Status.STOPPED.value]),
)

# Filters that are typed, and their titles.
TYPED_FILTERS = {"search": "Search", "since": "From", "until": "Until"}
# What narrows the list besides search and status: parameter, title, and where its choices come
# from.
FACETS = (
    ("method", "Method", "method__slug", "method__name"),
    ("base_model", "Base model", "base_model__slug", "base_model__name"),
    ("dataset", "Dataset", "dataset__slug", "dataset__name"),
    ("label", "Label", "labels__name", "labels__name"),
    ("dataset_label", "Dataset label", "dataset__labels__name", "dataset__labels__name"),
    ("owner", "Owner", "owner__username", "owner__username"),
)


@dataclass(frozen=True)
class Row:
    """One train as the list shows it. `position` is its place in the queue, 0 for one that does not
    wait."""

    run: TrainRun
    position: int
    mine: bool
    starts: Estimate | None = None

    @property
    def seconds(self) -> float | None:
        return run_seconds(self.run)

    @property
    def progress(self) -> float | None:
        return run_progress(self.run)


@dataclass(frozen=True)
class Pill:
    title: str
    statuses: list[str]
    count: int
    active: bool


def rows_make(runs: Any, reader: Reader, places: dict[int, int]) -> list[Row]:
    runs = list(runs)
    starts = {}
    if any(run.status == Status.QUEUED for run in runs):
        starts = starts_now()

    rows = []

    for run in runs:
        row = Row(
            run=run,
            position=places.get(run.pk, 0),
            mine=may_change(run, reader),
            starts=starts.get(run.pk),
        )
        rows.append(row)

    return rows


def narrowed(reader: Reader, query: QueryDict) -> TrainRunQuerySet:
    """The trains that this reader may see, under the filters of the query string."""
    visible = TrainRun.objects.visible_to(reader).with_related()
    matching: TrainRunQuerySet = TrainFilter(query, queryset=visible).qs
    return matching


def counts_of(reader: Reader, query: QueryDict) -> dict[str, int]:
    """Trains of each status under all other filters."""
    others = query.copy()
    for name in ("status", "ordering"):
        others.pop(name, None)

    visible = TrainRun.objects.visible_to(reader)
    matching = TrainFilter(others, queryset=visible).qs
    by_status = matching.order_by().values_list("status")

    return dict(by_status.annotate(count=Count("pk", distinct=True)))


def pills_make(query: QueryDict, counts: dict[str, int]) -> list[Pill]:
    """Each says what a click on it would show."""
    chosen = set(query.getlist("status"))
    pills = []

    for title, statuses in PILLS:
        pill = Pill(
            title=title,
            statuses=statuses,
            count=count_of(counts, statuses),
            active=chosen == set(statuses),
        )
        pills.append(pill)

    return pills


def count_of(counts: dict[str, int], statuses: list[str]) -> int:
    """Trains in any of these statuses; in all where none is named."""
    return sum(count for status, count in counts.items() if not statuses or status in statuses)


def facets_make(reader: Reader, query: QueryDict) -> list[Facet]:
    """Every value that occurs, of all facets by one query."""
    visible = TrainRun.objects.visible_to(reader).order_by()
    queries = []

    for name, _, key, label in FACETS:
        with_value = visible.exclude(**{key: None})
        named = with_value.annotate(facet=Value(name), choice=F(key), label=F(label))
        queries.append(named.values_list("facet", "choice", "label").distinct())

    first, *others = queries
    choices: dict[str, list[tuple[str, str]]] = {name: [] for name, *_ in FACETS}

    for name, key, label in first.union(*others, all=True):
        choices[name].append((str(key), str(label)))

    facets = []

    for name, title, *_ in FACETS:
        by_label = sorted(choices[name], key=lambda choice: choice[1])
        facets.append(Facet(name, title, by_label, query.get(name, "")))

    return facets


def strip_make(reader: Reader, places: dict[int, int]) -> dict[str, Any]:
    """Running now, waiting, and the device: what stands above the list."""
    visible = TrainRun.objects.visible_to(reader)
    running = list(visible.active().order_by("pk"))
    current = running[0] if running else None

    return {
        "running": running,
        "current": current,
        "current_progress": run_progress(current) if current is not None else None,
        "waiting": len(places),
        "next": waiting().filter(owner=reader.pk).first(),
        "worker": worker_state(),
        "queue": queue_state(),
    }


class RunPaginator(Paginator):  # type: ignore[type-arg]
    """Finds the ids of a page, and reads these rows alone: rows are wide, and seven others belong
    to each."""

    object_list: TrainRunQuerySet

    def page(self, number: int | str) -> Page[TrainRun]:
        number = self.validate_number(number)
        first = (number - 1) * self.per_page
        every_id = self.object_list.values_list("pk", flat=True)
        ids = list(every_id[first : first + self.per_page])
        by_id = TrainRun.objects.with_related().in_bulk(ids)

        # One may have been deleted in between.
        runs = [by_id[pk] for pk in ids if pk in by_id]
        return Page(runs, number, self)


def table_page(reader: Reader, query: QueryDict) -> dict[str, Any]:
    """Everything that the list page shows for one query string."""
    paginator = RunPaginator(narrowed(reader, query), PAGE_ROWS)
    counts = counts_of(reader, query)
    statuses = query.getlist("status")

    if set(statuses) <= set(Status.values):
        # Spares the database to count again.
        paginator.count = count_of(counts, statuses)

    page = paginator.get_page(query.get("page"))
    visible = TrainRun.objects.visible_to(reader).aggregate(newest=Max("pk"), total=Count("pk"))
    places = queue_positions()
    facets = facets_make(reader, query)
    filters = active_filters(query, facets, TYPED_FILTERS)

    return {
        "page": page,
        "rows": rows_make(page.object_list, reader, places),
        "pills": pills_make(query, counts),
        "facets": facets,
        "strip": strip_make(reader, places),
        "statuses_chosen": statuses,
        "facets_chosen": sum(item.title != TYPED_FILTERS["search"] for item in filters),
        "active_filters": filters,
        "narrowed": bool(filters or statuses),
        "newest": visible["newest"] or 0,
        "total": visible["total"],
        "ordering": query.get("ordering", ""),
        "offers_sample": offers_sample(reader, visible["total"]),
        **columns_context(reader),
        "own_labels": [name for name, _ in label_suggestions(reader)],
    }


def offers_sample(reader: Reader, total: int) -> bool:
    """The sample is for somebody who has no train yet."""
    return total == 0 and isinstance(reader, User) and sample_is_offered(reader)


def columns_context(reader: Reader) -> dict[str, Any]:
    shown = columns_shown(reader)
    return {
        "columns": [(column, column.name in shown) for column in COLUMNS],
        "hidden_columns": [column.css for column in COLUMNS if column.name not in shown],
    }


def sort_link(ordering: str, name: str) -> tuple[str, str]:
    """(what a click on the column's head asks for, aria-sort of the column)"""
    if ordering == name:
        return f"-{name}", "ascending"

    return name, "descending" if ordering == f"-{name}" else "none"
