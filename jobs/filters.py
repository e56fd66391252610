"""How lists of jobs are narrowed, on the page and in the API alike."""

from __future__ import annotations

import django_filters

from core.listing import ChoicesFilter, ListFilter, SortFilter
from jobs.models import Job


class JobFilter(ListFilter):
    searched = ("name",)
    kind = django_filters.CharFilter(label="Such as train or dataset-check")
    status = ChoicesFilter(choices=Job.Status.choices)
    owner = django_filters.CharFilter(field_name="owner__username")
    ordering = SortFilter(
        {
            "number": "number",
            "name": "name",
            "kind": "kind",
            "status": "status",
            "created_at": "created_at",
            "started_at": "started_at",
            "finished_at": "finished_at",
            "owner": "owner__username",
        }
    )

    class Meta:
        model = Job
        fields: tuple[str, ...] = ()
