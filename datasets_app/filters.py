"""How lists of datasets are narrowed, on the page and in the API alike."""

from __future__ import annotations

import django_filters

from core.filters import ArchivableFilter, ChoicesFilter
from datasets_app.models import Dataset
from engine.formats import FORMATS


class DatasetFilter(ArchivableFilter):
    searched = ("name", "description", "file_name")
    status = ChoicesFilter(choices=Dataset.Status.choices)
    format = ChoicesFilter(choices=[(item.slug, item.title) for item in FORMATS.values()])
    label = django_filters.CharFilter(field_name="labels__name", lookup_expr="iexact", distinct=True)
    owner = django_filters.CharFilter(field_name="owner__username")
    shared = django_filters.BooleanFilter()
    ordering = django_filters.OrderingFilter(
        fields=(
            ("id", "id"),
            ("name", "name"),
            ("status", "status"),
            ("format", "format"),
            ("row_count", "row_count"),
            ("size_bytes", "size_bytes"),
            ("created_at", "created_at"),
            ("owner__username", "owner"),
        )
    )

    class Meta:
        model = Dataset
        fields: tuple[str, ...] = ()
