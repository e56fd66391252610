"""Background work for operators: what waits and runs, and a way to end it."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from core.chores import chore_cancel
from core.models import Chore


@admin.register(Chore)
class ChoreAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "key",
        "status",
        "lane",
        "turn",
        "starts",
        "created_at",
        "started_at",
        "due_at",
        "host",
        "error",
    )
    list_filter = ("status", "lane", "kind")
    search_fields = ("key",)
    actions = ("cancel",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Chore | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Chore | None = None) -> bool:
        # Cancelled work records that; a row that is deleted would be added again.
        if obj is None or obj.status != Chore.Status.GIVEN_UP:
            return False

        return super().has_delete_permission(request, obj)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("core.delete_chore"))

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel(self, request: HttpRequest, chores: QuerySet[Chore]) -> None:
        cancelled = 0
        for chore in chores:
            if chore_cancel(chore.key):
                cancelled += 1

        self.message_user(request, f"{cancelled} cancelled.")
