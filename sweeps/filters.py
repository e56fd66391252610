"""How lists of sweeps are narrowed, on the page and in the API alike."""

from __future__ import annotations

import django_filters

from core.listing import ChoicesFilter, ListFilter, SortFilter
from sweeps.models import Sweep


class SweepFilter(ListFilter):
    searched = ("name",)
    status = ChoicesFilter(choices=Sweep.Status.choices)
    owner = django_filters.CharFilter(field_name="owner__username")
    shared = django_filters.BooleanFilter()
    ordering = SortFilter(
        {
            "id": "id",
            "name": "name",
            "status": "status",
            "created_at": "created_at",
            "owner": "owner__username",
        }
    )

    class Meta:
        model = Sweep
        fields: tuple[str, ...] = ()
