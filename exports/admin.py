"""Exports for operators: to look at, to try again and to delete."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.errors import UserError
from core.requests import reader_of
from exports.models import Export
from exports.services import export_delete, export_retry


@admin.register(Export)
class ExportAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("id", "model", "format", "status", "delivery", "size_bytes", "made_at", "page")
    list_filter = ("status", "format", "delivery")
    list_select_related = ("model",)
    search_fields = ("model__name", "model__slug", "destination")
    actions = ("retry",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Export | None = None) -> list[str]:
        return [field.name for field in Export._meta.fields]

    def delete_model(self, request: HttpRequest, obj: Export) -> None:
        export_delete(export=obj, by=reader_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Export]) -> None:
        for export in queryset:
            export_delete(export=export, by=reader_of(request))

    @admin.display(description="Page")
    def page(self, export: Export) -> SafeString:
        return format_html('<a href="{}">Open</a>', export.get_absolute_url())

    @admin.action(description="Try again", permissions=["change"])
    def retry(self, request: HttpRequest, exports: QuerySet[Any]) -> None:
        for export in exports:
            try:
                export_retry(export=export, by=reader_of(request))
                self.message_user(request, f"{export}: started again.", messages.SUCCESS)
            except UserError as error:
                self.message_user(request, f"{export}: {error.message}", messages.ERROR)
