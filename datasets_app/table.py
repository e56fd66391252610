"""The list of datasets: rows, choices and filters of one page, with a number of queries that does
not grow with it."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.paginator import Page, Paginator
from django.http import QueryDict

from core.listing import PAGE_ROWS, Facet, active_filters
from datasets_app.filters import DatasetFilter
from datasets_app.models import Dataset, Label
from datasets_app.versions import versions_attach
from engine.rows.formats import FORMATS

Reader = AbstractBaseUser | AnonymousUser


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

    statuses = {dataset.status for dataset in page.object_list}

    return {
        "page": page,
        "checking": Dataset.Status.CHECKING in statuses,
        "rows": versions_attach(page.object_list, reader),
        "facets": facets,
        "facets_chosen": facets_chosen,
        "active_filters": active_filters(query, facets),
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
