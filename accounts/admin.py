"""For operators: who has tokens, and who is locked out."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from accounts.models import SignInCounter, Token


class ViewAndDeleteAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """For rows that nobody adds or changes by hand: they can be viewed, and deleted."""

    actions_on_bottom = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Token)
class TokenAdmin(ViewAndDeleteAdmin):
    """Deleting a token revokes it."""

    list_display = ("name", "user", "scope", "created", "last_used", "expiry", "request_limit")
    list_filter = ("scope",)
    search_fields = ("name", "user__username")
    fields = ("name", "user", "scope", "created", "last_used", "expiry", "requests_per_minute")
    list_select_related = ("user",)


@admin.register(SignInCounter)
class SignInCounterAdmin(ViewAndDeleteAdmin):
    """Deleting a row unlocks at once."""

    list_display = ("key", "kind", "count", "expires_at")
    list_filter = ("kind",)
    search_fields = ("key",)
    ordering = ("-expires_at",)
