"""The list of datasets: rows, choices and filters of one page, with a number of queries that does
not grow with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.paginator import Page, Paginator
from django.http import QueryDict

from datasets_app.filters import DatasetFilter
from datasets_app.models import Dataset, Label
from datasets_app.versions import versions_attach
from engine.rows.formats import FORMATS

PAGE_ROWS = 25
Reader = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True)
class Facet:
    name: str
    title: str
    choices: list[tuple[str, str]]
    value: str


def table_page(reader: Reader, query: QueryDict) -> dict[str, Any]:
    """Everything that the list page shows for one query string."""
    visible = Dataset.objects.visible_to(reader)
    rows = visible.select_related("owner").prefetch_related("labels")
    filtered = DatasetFilter(query, queryset=rows).qs
    # One row a dataset, whose menu has its other versions.
    paginator = Paginator(filtered.newest_versions(), PAGE_ROWS)
    page: Page[Dataset] = paginator.get_page(query.get("page"))

    facets = facets_make(reader, query)
    facets_chosen = sum(bool(facet.value) for facet in facets)
    archived = visible.exclude(archived_at=None).newest_versions()

    return {
        "page": page,
        "rows": versions_attach(page.object_list, reader),
        "facets": facets,
        "facets_chosen": facets_chosen,
        "active_filters": active_filters(facets, query),
        "narrowed": bool(facets_chosen or query.get("search") or query.get("archived")),
        "archived": query.get("archived", "").lower() == "true",
        "archived_count": archived.count(),
        "ordering": query.get("ordering", ""),
        "formats": [item for item in FORMATS.values() if item.slug in SAMPLES],
    }


# Formats whose examples an empty page offers.
SAMPLES = ("messages", "question-answer", "alpaca", "text")


def facets_make(reader: Reader, query: QueryDict) -> list[Facet]:
    """The menus above the list, with the values that occur."""
    visible = Dataset.objects.visible_to(reader).order_by()
    labels = Label.objects.filter(datasets__in=visible).distinct()
    label_names = labels.values_list("name", flat=True)
    formats = visible.exclude(format="").values_list("format", flat=True)
    used_formats = set(formats.distinct())
    owners = visible.exclude(owner=None).values_list("owner__username", flat=True)
    owner_names = sorted(owners.distinct())

    choices = {
        "label": [(name, name) for name in label_names],
        "format": [(slug, item.title) for slug, item in FORMATS.items() if slug in used_formats],
        "status": [(str(value), str(title)) for value, title in Dataset.Status.choices],
        "owner": [(name, name) for name in owner_names],
    }

    facets = []
    for name, values in choices.items():
        chosen = query.get(name, "")
        facets.append(Facet(name, name.capitalize(), values, chosen))

    return facets


def active_filters(facets: list[Facet], query: QueryDict) -> list[tuple[str, str, str]]:
    """(title, value, address without it) of each filter that is set."""
    filters = [("search", "Search", query.get("search", ""))]
    for facet in facets:
        title = dict(facet.choices).get(facet.value, facet.value)
        filters.append((facet.name, facet.title, title))

    active = []
    for name, title, value in filters:
        if value:
            others = query.copy()
            others.pop(name, None)
            others.pop("page", None)
            active.append((title, value[:60], f"?{others.urlencode()}"))

    return active
