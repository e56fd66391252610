"""How lists of models are narrowed, on the page and in the API alike."""

from __future__ import annotations

import django_filters
from django.db.models import Q, QuerySet

from core.listing import ArchivableFilter, ChoicesFilter, SortFilter
from models_app.models import BaseModel


class BaseModelFilter(ArchivableFilter):
    searched = ("name", "description", "architecture", "reference", "licence")
    status = ChoicesFilter(choices=BaseModel.Status.choices)
    source = ChoicesFilter(choices=BaseModel.Source.choices)
    origin = django_filters.ChoiceFilter(
        choices=[("base", "Base models"), ("trained", "Trained here")],
        method="of_origin",
        label="base: added from elsewhere; trained: made by a train of this platform",
    )
    architecture = django_filters.CharFilter(field_name="architecture", lookup_expr="iexact")
    owner = django_filters.CharFilter(field_name="owner__username")
    shared = django_filters.BooleanFilter()
    ordering = SortFilter(
        {
            "id": "id",
            "name": "name",
            "status": "status",
            "architecture": "architecture",
            "parameter_count": "parameter_count",
            "context_length": "context_length",
            "size_bytes": "size_bytes",
            "created_at": "created_at",
            "owner": "owner__username",
        }
    )

    class Meta:
        model = BaseModel
        fields: tuple[str, ...] = ()

    def of_origin(self, rows: QuerySet[BaseModel], name: str, value: str) -> QuerySet[BaseModel]:
        trained = Q(source=BaseModel.Source.TRAIN)
        return rows.filter(trained if value == "trained" else ~trained)
