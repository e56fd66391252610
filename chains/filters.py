"""How lists of chains are narrowed, on the page and in the API alike."""

from __future__ import annotations

import django_filters

from chains.models import Chain
from core.listing import ChoicesFilter, ListFilter, SortFilter


class ChainFilter(ListFilter):
    searched = ("name",)
    status = ChoicesFilter(choices=Chain.Status.choices)
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
        model = Chain
        fields: tuple[str, ...] = ()
