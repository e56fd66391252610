"""How lists of models are narrowed, on the page and in the API alike."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import Q

from models_app.models import BaseModel, BaseModelQuerySet


class BaseModelFilter(django_filters.FilterSet):
    search = django_filters.CharFilter(method="search_for", label="Name, description, architecture, origin or #id")
    status = django_filters.MultipleChoiceFilter(choices=BaseModel.Status.choices)
    source = django_filters.MultipleChoiceFilter(choices=BaseModel.Source.choices)
    architecture = django_filters.CharFilter(field_name="architecture", lookup_expr="iexact")
    owner = django_filters.CharFilter(field_name="owner__username")
    archived = django_filters.BooleanFilter(method="show_archived", label="Only archived ones; they are left out else")
    ordering = django_filters.OrderingFilter(
        fields=(
            ("id", "id"),
            ("name", "name"),
            ("status", "status"),
            ("architecture", "architecture"),
            ("parameter_count", "parameter_count"),
            ("context_length", "context_length"),
            ("size_bytes", "size_bytes"),
            ("created_at", "created_at"),
            ("owner__username", "owner"),
        )
    )

    class Meta:
        model = BaseModel
        fields: tuple[str, ...] = ()

    def filter_queryset(self, queryset: BaseModelQuerySet) -> Any:
        rows = super().filter_queryset(queryset)
        # Equal ones keep one order, so that no row is on two pages.
        rows = rows.order_by(*rows.query.order_by, "id")
        return rows if self.form.cleaned_data.get("archived") else rows.filter(archived_at=None)

    def search_for(self, rows: BaseModelQuerySet, name: str, value: str) -> BaseModelQuerySet:
        words = Q()
        for field in ("name", "description", "architecture", "reference", "licence"):
            words |= Q(**{f"{field}__icontains": value})
        number = value.removeprefix("#")
        if number.isascii() and number.isdigit() and len(number) < 19:
            words |= Q(pk=int(number))
        return rows.filter(words)

    def show_archived(self, rows: BaseModelQuerySet, name: str, value: bool) -> BaseModelQuerySet:
        return rows.exclude(archived_at=None) if value else rows
