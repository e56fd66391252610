"""How lists of trains are narrowed, on the page and in the API alike."""

from __future__ import annotations

import django_filters
from django.db.models import Q

from training.models import TrainRun, TrainRunQuerySet


class TrainFilter(django_filters.FilterSet):
    search = django_filters.CharFilter(method="search_for", label="Name, model, dataset or #id")
    status = django_filters.MultipleChoiceFilter(choices=TrainRun.Status.choices)
    method = django_filters.CharFilter(field_name="method__slug")
    base_model = django_filters.CharFilter(field_name="base_model__slug")
    dataset = django_filters.CharFilter(field_name="dataset__slug")
    label = django_filters.CharFilter(field_name="dataset__labels__name", distinct=True)
    owner = django_filters.CharFilter(field_name="owner__username")
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
            ("best_eval_loss", "best_eval_loss"),
            ("started_at", "started_at"),
            ("created_at", "created_at"),
            ("owner__username", "owner"),
        )
    )

    class Meta:
        model = TrainRun
        fields: tuple[str, ...] = ()

    def search_for(self, rows: TrainRunQuerySet, name: str, value: str) -> TrainRunQuerySet:
        words = Q(name__icontains=value) | Q(base_model__name__icontains=value) | Q(dataset__name__icontains=value)
        number = value.removeprefix("#")
        if number.isascii() and number.isdigit() and len(number) < 19:
            words |= Q(pk=int(number))
        return rows.filter(words)
