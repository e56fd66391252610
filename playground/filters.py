"""How lists of conversations are narrowed, on the page and in the API alike."""

from __future__ import annotations

import django_filters

from core.listing import ListFilter, SortFilter
from playground.models import Conversation


class ConversationFilter(ListFilter):
    searched = ("name",)
    owner = django_filters.CharFilter(field_name="owner__username")
    shared = django_filters.BooleanFilter()
    ordering = SortFilter(
        {"id": "id", "name": "name", "changed_at": "changed_at", "created_at": "created_at"}
    )

    class Meta:
        model = Conversation
        fields: tuple[str, ...] = ()
