"""Base models for operators, who change names and descriptions; what an import found stays."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.owned_admin import ARCHIVE_ACTIONS, SHARING_ACTIONS, ArchivableAdmin
from core.requests import reader_of
from models_app.models import BaseModel
from models_app.services import (
    model_archive,
    model_delete,
    model_restore,
    model_retry,
    model_update,
)


@admin.register(BaseModel)
class BaseModelAdmin(ArchivableAdmin):
    list_display = (
        "name",
        "slug",
        "status",
        "source",
        "architecture",
        "parameter_count",
        "owner",
        "shared",
        "archived_at",
        "page",
    )
    list_filter = (
        "status",
        "shared",
        ("owner", admin.EmptyFieldListFilter),
        "source",
        "architecture",
        ("archived_at", admin.EmptyFieldListFilter),
    )
    list_select_related = ("owner",)
    search_fields = ("name", "slug", "reference", "architecture", "owner__username")
    actions = (*ARCHIVE_ACTIONS, "retry", *SHARING_ACTIONS)
    editable = ("name", "description")

    def get_fields(self, request: HttpRequest, obj: BaseModel | None = None) -> Any:
        """The fields that operators may change, then all others."""
        fields = list(self.editable)
        for field in BaseModel._meta.fields:
            if field.name not in ("id", *fields):
                fields.append(field.name)

        return fields

    def get_readonly_fields(self, request: HttpRequest, obj: BaseModel | None = None) -> list[str]:
        names = self.get_fields(request, obj)
        return [name for name in names if name not in self.editable]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: BaseModel, form: Any, change: bool) -> None:
        model_update(
            model=obj,
            by=reader_of(request),
            name=obj.name,
            description=obj.description,
        )

    def delete_model(self, request: HttpRequest, obj: BaseModel) -> None:
        model_delete(model=obj, by=reader_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[BaseModel]) -> None:
        for model in queryset:
            model_delete(model=model, by=reader_of(request))

    @admin.display(description="Page")
    def page(self, model: BaseModel) -> SafeString:
        return format_html('<a href="{}">Open</a>', model.get_absolute_url())

    def archive_row(self, row: BaseModel, by: User) -> None:
        model_archive(model=row, by=by)

    def restore_row(self, row: BaseModel, by: User) -> None:
        model_restore(model=row, by=by)

    @admin.action(description="Try the import again", permissions=["change"])
    def retry(self, request: HttpRequest, models: QuerySet[BaseModel]) -> None:
        def retry_model(model: BaseModel, by: User) -> None:
            model_retry(model=model, by=by)

        self.change_each(request, models, retry_model, "Started again")
