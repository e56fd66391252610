"""How lists of datasets are narrowed, on the page and in the API alike."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet

from core.listing import ArchivableFilter, ChoicesFilter, SortFilter
from datasets_app.models import Dataset
from engine.rows.formats import FORMATS


class DatasetFilter(ArchivableFilter):
    searched = ("name", "description", "file_name")
    status = ChoicesFilter(choices=Dataset.Status.choices)
    format = ChoicesFilter(choices=[(item.slug, item.title) for item in FORMATS.values()])
    label = django_filters.CharFilter(
        field_name="labels__name", lookup_expr="iexact", distinct=True
    )
    owner = django_filters.CharFilter(field_name="owner__username")
    latest = django_filters.BooleanFilter(
        method="keep_all",
        label="One row a dataset: the newest version among those that the other filters leave",
    )
    shared = django_filters.BooleanFilter()
    ordering = SortFilter(
        {
            "id": "id",
            "name": "name",
            "status": "status",
            "format": "format",
            "row_count": "row_count",
            "size_bytes": "size_bytes",
            "created_at": "created_at",
            "owner": "owner__username",
        }
    )

    def filter_queryset(self, queryset: QuerySet[Any]) -> Any:
        rows = super().filter_queryset(queryset)
        return rows.newest_versions() if self.form.cleaned_data.get("latest") else rows

    def keep_all(self, rows: QuerySet[Any], name: str, value: bool) -> QuerySet[Any]:
        """Which version is the newest is decided behind all other filters."""
        return rows

    class Meta:
        model = Dataset
        fields: tuple[str, ...] = ()
