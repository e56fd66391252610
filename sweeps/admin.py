"""Sweeps for operators: to search, stop, share and hand over. They are changed only through the
services."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from core.owned_admin import SHARING_ACTIONS, OwnedAdmin, PartInline
from core.requests import reader_of
from sweeps.models import Sweep, Trial
from sweeps.services import sweep_delete, sweep_stop


class TrialInline(PartInline):
    model = Trial
    fields = ("number", "values", "run", "state", "value", "reason")


@admin.register(Sweep)
class SweepAdmin(OwnedAdmin):
    list_display = ("id", "name", "status", "trial_count", "owner", "shared", "created_at")
    list_display_links = ("id", "name")
    list_filter = ("status", "shared", "owner", "created_at")
    list_select_related = ("owner",)
    search_fields = ("=id", "name", "owner__username")
    ordering = ("-id",)
    actions = ("stop", *SHARING_ACTIONS)
    inlines = (TrialInline,)
    fields = (
        "name",
        "status",
        "reason",
        "owner",
        "shared",
        "method",
        "base_model",
        "dataset",
        "space",
        "metric",
        "search",
        "pruner",
        "budget_asked",
        "budget_hours",
        "priority",
        "created_at",
        "ended_at",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Sweep]:
        sweeps: QuerySet[Sweep] = super().get_queryset(request)
        return sweeps.annotate(trial_total=Count("trials"))

    @admin.display(description="trains")
    def trial_count(self, sweep: Any) -> int:
        return int(sweep.trial_total)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Sweep | None = None) -> bool:
        if obj is not None and obj.is_active:
            return False

        return super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Sweep) -> None:
        sweep_delete(sweep=obj, by=reader_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Sweep]) -> None:
        self.change_each(
            request, queryset, lambda row, by: sweep_delete(sweep=row, by=by), "Deleted"
        )

    @admin.action(description="Stop", permissions=["change"])
    def stop(self, request: HttpRequest, sweeps: QuerySet[Sweep]) -> None:
        self.change_each(request, sweeps, lambda row, by: sweep_stop(sweep=row, by=by), "Stopped")
