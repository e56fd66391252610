"""How lists of exports are narrowed."""

from __future__ import annotations

from core.listing import ChoicesFilter, ListFilter, SortFilter
from exports.models import Export


class ExportFilter(ListFilter):
    searched = ("model__name", "format", "destination")
    status = ChoicesFilter(choices=Export.Status.choices)
    format = ChoicesFilter(choices=Export.Format.choices)
    ordering = SortFilter(
        {"id": "id", "created_at": "created_at", "size_bytes": "size_bytes", "format": "format"}
    )

    class Meta:
        model = Export
        fields: tuple[str, ...] = ()
