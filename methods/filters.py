"""How lists of methods are narrowed."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import Q

from methods.models import TrainingMethod, TrainingMethodQuerySet


class TrainingMethodFilter(django_filters.FilterSet):
    search = django_filters.CharFilter(method="search_for", label="Name, slug or description")
    recipe = django_filters.CharFilter(field_name="recipe")
    retired = django_filters.BooleanFilter(
        method="show_retired", label="Only retired ones, which are otherwise left out"
    )

    class Meta:
        model = TrainingMethod
        fields: tuple[str, ...] = ()

    def filter_queryset(self, queryset: TrainingMethodQuerySet) -> Any:
        rows = super().filter_queryset(queryset)
        return rows if self.form.cleaned_data.get("retired") else rows.offered()

    def search_for(
        self, rows: TrainingMethodQuerySet, name: str, value: str
    ) -> TrainingMethodQuerySet:
        matches = Q()
        for field in ("name", "slug", "description"):
            matches |= Q(**{f"{field}__icontains": value})

        return rows.filter(matches)

    def show_retired(
        self, rows: TrainingMethodQuerySet, name: str, value: bool
    ) -> TrainingMethodQuerySet:
        return rows.exclude(retired_at=None) if value else rows
