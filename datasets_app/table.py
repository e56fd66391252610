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
    all_rows = DatasetFilter(
        query, queryset=visible.select_related("owner").prefetch_related("labels")
    ).qs
    # One row a dataset, whose menu has its other versions.
    page: Page[Dataset] = Paginator(all_rows.newest_versions(), PAGE_ROWS).get_page(
        query.get("page")
    )
    facets = facets_make(reader, query)

    return {
        "page": page,
        "rows": versions_attach(page.object_list, reader),
        "facets": facets,
        "facets_chosen": sum(bool(facet.value) for facet in facets),
        "active_filters": active_filters(query, facets),
        "narrowed": any(
            query.get(name) for name in ("search", "archived", *(facet.name for facet in facets))
        ),
        "archived": query.get("archived", "").lower() == "true",
        "archived_count": visible.exclude(archived_at=None).newest_versions().count(),
        "ordering": query.get("ordering", ""),
        "formats": [item for item in FORMATS.values() if item.slug in SAMPLES],
    }


# Formats whose examples an empty page offers.
SAMPLES = ("messages", "question-answer", "alpaca", "text")


def facets_make(reader: Reader, query: QueryDict) -> list[Facet]:
    visible = Dataset.objects.visible_to(reader).order_by()
    labels = Label.objects.filter(datasets__in=visible).distinct().values_list("name", flat=True)
    formats = visible.exclude(format="").values_list("format", flat=True).distinct()
    owners = visible.exclude(owner=None).values_list("owner__username", flat=True).distinct()

    return [
        Facet("label", "Label", [(name, name) for name in labels], query.get("label", "")),
        Facet(
            "format",
            "Format",
            [(slug, FORMATS[slug].title) for slug in FORMATS if slug in set(formats)],
            query.get("format", ""),
        ),
        Facet(
            "status",
            "Status",
            [(str(v), str(t)) for v, t in Dataset.Status.choices],
            query.get("status", ""),
        ),
        Facet("owner", "Owner", [(name, name) for name in sorted(owners)], query.get("owner", "")),
    ]
