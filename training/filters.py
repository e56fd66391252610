"""How lists of trains are narrowed, on the page and in the API alike."""

from __future__ import annotations

import django_filters
from django.db.models import QuerySet

from core.filters import ChoicesFilter, ListFilter
from datasets_app.models import Dataset
from training.models import TrainRun


class TrainFilter(ListFilter):
    searched = ("name", "base_model__name", "dataset__name")
    status = ChoicesFilter(choices=TrainRun.Status.choices)
    method = django_filters.CharFilter(field_name="method__slug")
    base_model = django_filters.CharFilter(field_name="base_model__slug")
    dataset = django_filters.CharFilter(field_name="dataset__slug")
    label = django_filters.CharFilter(method="show_labelled", label="A label of the dataset")
    owner = django_filters.CharFilter(field_name="owner__username")
    shared = django_filters.BooleanFilter()
    since = django_filters.DateFilter(field_name="created_at", lookup_expr="date__gte")
    until = django_filters.DateFilter(field_name="created_at", lookup_expr="date__lte")
    ordering = django_filters.OrderingFilter(
        fields=(
            ("id", "id"),
            ("name", "name"),
            ("status", "status"),
            ("method__name", "method"),
            ("base_model__name", "base_model"),
            ("dataset__name", "dataset"),
            ("best_value", "best_value"),
            ("started_at", "started_at"),
            ("created_at", "created_at"),
            ("owner__username", "owner"),
        )
    )

    class Meta:
        model = TrainRun
        fields: tuple[str, ...] = ()

    def show_labelled(self, rows: QuerySet[TrainRun], name: str, value: str) -> QuerySet[TrainRun]:
        return rows.filter(dataset__in=Dataset.objects.filter(labels__name=value).values("pk"))
