"""How lists of trains are narrowed and sorted, on the page and in the API alike."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import Q, QuerySet

from core.listing import ChoicesFilter, ListFilter, SortFilter
from datasets_app.models import Dataset
from training.models import TrainLabel, TrainRun
from training.train.ordering import duration_seconds, last_value, status_rank


class TrainFilter(ListFilter):
    searched = ("name", "base_model__name", "dataset__name")
    status = ChoicesFilter(choices=TrainRun.Status.choices)
    method = django_filters.CharFilter(field_name="method__slug")
    base_model = django_filters.CharFilter(field_name="base_model__slug")
    dataset = django_filters.CharFilter(field_name="dataset__slug")
    label = django_filters.CharFilter(method="show_labelled", label="A label of the train")
    dataset_label = django_filters.CharFilter(
        method="show_dataset_labelled", label="A label of the dataset"
    )
    owner = django_filters.CharFilter(field_name="owner__username")
    shared = django_filters.BooleanFilter()
    since = django_filters.DateFilter(field_name="created_at", lookup_expr="date__gte")
    until = django_filters.DateFilter(field_name="created_at", lookup_expr="date__lte")
    ordering = SortFilter(
        {
            "id": "id",
            "name": "name",
            "method": "method__name",
            "base_model": "base_model__name",
            "dataset": "dataset__name",
            "best_value": "best_value",
            "started_at": "started_at",
            "created_at": "created_at",
            "owner": "owner__username",
        },
        computed={
            "status": (status_rank(),),
            "last_value": last_value(),
            "duration_seconds": (duration_seconds(),),
        },
    )

    class Meta:
        model = TrainRun
        fields: tuple[str, ...] = ()

    def search_words(self, value: str) -> Q:
        labelled = TrainLabel.objects.filter(name__icontains=value).values("run")
        return super().search_words(value) | Q(pk__in=labelled)

    def show_labelled(self, rows: QuerySet[TrainRun], name: str, value: str) -> QuerySet[TrainRun]:
        labelled = TrainLabel.objects.filter(name__iexact=value)
        return rows.filter(pk__in=labelled.values("run"))

    def show_dataset_labelled(
        self, rows: QuerySet[TrainRun], name: str, value: str
    ) -> QuerySet[TrainRun]:
        labelled: Any = Dataset.objects.filter(labels__name__iexact=value)
        return rows.filter(dataset__in=labelled.values("pk"))
