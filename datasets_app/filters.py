"""How lists of datasets are narrowed, on the page and in the API alike."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import Q

from datasets_app.models import Dataset, DatasetQuerySet
from engine.formats import FORMATS


class DatasetFilter(django_filters.FilterSet):
    search = django_filters.CharFilter(method="search_for", label="Name, description, file or #id")
    status = django_filters.MultipleChoiceFilter(choices=Dataset.Status.choices)
    format = django_filters.MultipleChoiceFilter(choices=[(item.slug, item.title) for item in FORMATS.values()])
    label = django_filters.CharFilter(field_name="labels__name", lookup_expr="iexact", distinct=True)
    owner = django_filters.CharFilter(field_name="owner__username")
    archived = django_filters.BooleanFilter(method="show_archived", label="Only archived ones; they are left out else")
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

    def filter_queryset(self, queryset: DatasetQuerySet) -> Any:
        rows = super().filter_queryset(queryset)
        return rows if self.form.cleaned_data.get("archived") else rows.filter(archived_at=None)

    def search_for(self, rows: DatasetQuerySet, name: str, value: str) -> DatasetQuerySet:
        words = Q(name__icontains=value) | Q(description__icontains=value) | Q(file_name__icontains=value)
        number = value.removeprefix("#")
        if number.isascii() and number.isdigit() and len(number) < 19:
            words |= Q(pk=int(number))
        return rows.filter(words)

    def show_archived(self, rows: DatasetQuerySet, name: str, value: bool) -> DatasetQuerySet:
        return rows.exclude(archived_at=None) if value else rows
