"""Datasets for operators: to look and search. What changes one goes through the services."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest

from core.owned_admin import ARCHIVE_ACTIONS, SHARING_ACTIONS, ArchivableAdmin
from core.requests import reader_of
from datasets_app.models import Dataset, Label
from datasets_app.services import (
    dataset_archive,
    dataset_delete,
    dataset_restore,
    dataset_update,
    uses_count,
)
from engine.rows.formats import FORMATS


class FormatFilter(admin.SimpleListFilter):
    title = "format"
    parameter_name = "format"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = [(item.slug, item.title) for item in FORMATS.values()]
        return [("none", "Not recognised"), *known]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Dataset]) -> QuerySet[Dataset]:
        value = self.value()
        if value is None:
            return queryset

        return queryset.filter(format="" if value == "none" else value)


@admin.register(Dataset)
class DatasetAdmin(ArchivableAdmin):
    list_display = (
        "name",
        "owner",
        "shared",
        "status",
        "format",
        "row_count",
        "problem_count",
        "size_bytes",
        "created_at",
    )
    list_filter = (
        "status",
        "shared",
        ("owner", admin.EmptyFieldListFilter),
        FormatFilter,
        "file_type",
        "labels",
        ("archived_at", admin.EmptyFieldListFilter),
        "created_at",
    )
    search_fields = ("name", "slug", "description", "file_name", "sha256", "owner__username")
    list_select_related = ("owner",)
    date_hierarchy = "created_at"
    actions = (*ARCHIVE_ACTIONS, *SHARING_ACTIONS)
    fields = (
        "name",
        "slug",
        "description",
        "labels",
        "owner",
        "shared",
        "status",
        "error",
        "format",
        "column_map",
        "columns",
        "row_count",
        "problem_count",
        "file_name",
        "file_type",
        "size_bytes",
        "sha256",
        "created_at",
        "checked_at",
        "archived_at",
    )
    # The file never changes, and the check alone says what is in it; people may change what they
    # call it.
    readonly_fields = tuple(
        name for name in fields if name not in ("name", "description", "labels")
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_actions(self, request: HttpRequest) -> Any:
        # Deleting many at once would pass by the service, and the files would stay.
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def has_delete_permission(self, request: HttpRequest, obj: Dataset | None = None) -> bool:
        if obj is not None and uses_count(obj):
            return False

        return super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Dataset, form: Any, change: bool) -> None:
        # Not save(): a running check writes other fields of this row at the same time.
        dataset_update(
            dataset=obj,
            by=reader_of(request),
            name=obj.name,
            description=obj.description,
        )

    def delete_model(self, request: HttpRequest, obj: Dataset) -> None:
        dataset_delete(dataset=obj, by=reader_of(request))

    def view_on_site(self, obj: Dataset) -> str:
        return obj.get_absolute_url()

    def archive_row(self, row: Dataset, by: User) -> None:
        dataset_archive(dataset=row, by=by)

    def restore_row(self, row: Dataset, by: User) -> None:
        dataset_restore(dataset=row, by=by)


@admin.register(Label)
class LabelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name",)
    search_fields = ("name",)
