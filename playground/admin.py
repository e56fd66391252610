"""Conversations for operators: to search, share and hand over. What was said is not changed."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from core.owned_admin import SHARING_ACTIONS, OwnedAdmin
from core.requests import reader_of
from playground.models import Conversation
from playground.services import conversation_delete


@admin.register(Conversation)
class ConversationAdmin(OwnedAdmin):
    list_display = ("id", "name", "models_shown", "prompt_count", "owner", "shared", "changed_at")
    list_display_links = ("id", "name")
    list_filter = ("shared", "owner", "changed_at")
    list_select_related = ("owner",)
    search_fields = ("=id", "name", "owner__username")
    ordering = ("-id",)
    actions = SHARING_ACTIONS
    fields = ("name", "models_shown", "owner", "shared", "blind", "created_at", "changed_at")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        rows: QuerySet[Conversation] = super().get_queryset(request)
        return rows.annotate(prompt_total=Count("turns"))

    @admin.display(description="models")
    def models_shown(self, conversation: Conversation) -> str:
        return " | ".join(conversation.titles)

    @admin.display(description="prompts")
    def prompt_count(self, conversation: Any) -> int:
        return int(conversation.prompt_total)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: Conversation) -> None:
        conversation_delete(conversation=obj, by=reader_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Conversation]) -> None:
        self.change_each(
            request,
            queryset,
            lambda row, by: conversation_delete(conversation=row, by=by),
            "Deleted",
        )
