"""Chains for operators: to search, cancel, share and hand over. They are changed only through the
services."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from chains.models import Chain, Stage
from chains.services import chain_cancel, chain_delete
from core.owned_admin import SHARING_ACTIONS, OwnedAdmin, PartInline
from core.requests import reader_of


class StageInline(PartInline):
    model = Stage
    fields = ("position", "name", "method", "dataset", "run", "model", "gate", "passed", "measured")


@admin.register(Chain)
class ChainAdmin(OwnedAdmin):
    list_display = ("id", "name", "status", "stage_count", "owner", "shared", "created_at")
    list_display_links = ("id", "name")
    list_filter = ("status", "shared", "owner", "created_at")
    list_select_related = ("owner",)
    search_fields = ("=id", "name", "owner__username")
    ordering = ("-id",)
    actions = ("cancel", *SHARING_ACTIONS)
    inlines = (StageInline,)
    fields = (
        "name",
        "status",
        "reason",
        "owner",
        "shared",
        "priority",
        "created_at",
        "ordered_at",
        "ended_at",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Chain]:
        chains: QuerySet[Chain] = super().get_queryset(request)
        return chains.annotate(stage_total=Count("stages"))

    @admin.display(description="stages")
    def stage_count(self, chain: Any) -> int:
        return int(chain.stage_total)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Chain | None = None) -> bool:
        if obj is not None and obj.status == Chain.Status.RUNNING:
            return False

        return super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Chain) -> None:
        chain_delete(chain=obj, by=reader_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Chain]) -> None:
        self.change_each(
            request, queryset, lambda row, by: chain_delete(chain=row, by=by), "Deleted"
        )

    @admin.action(description="Cancel", permissions=["change"])
    def cancel(self, request: HttpRequest, chains: QuerySet[Chain]) -> None:
        drafts = chains.filter(status=Chain.Status.DRAFT).count()
        if drafts:
            self.message_user(request, f"{drafts} are drafts.", messages.WARNING)

        running = chains.exclude(status=Chain.Status.DRAFT)
        self.change_each(
            request, running, lambda row, by: chain_cancel(chain=row, by=by), "Cancelled"
        )
