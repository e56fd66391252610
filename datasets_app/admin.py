"""Datasets for operators: to look and search. What changes one goes through the services."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest

from core.owned_admin import SHARING_ACTIONS, OwnedAdmin
from datasets_app.models import Dataset, Label
from datasets_app.services import (
    dataset_archive,
    dataset_delete,
    dataset_restore,
    dataset_update,
    uses_count,
)
from engine.rows.formats import FORMATS


def operator(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


class FormatFilter(admin.SimpleListFilter):
    title = "format"
    parameter_name = "format"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("none", "Not recognised"), *((item.slug, item.title) for item in FORMATS.values())]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Dataset]) -> QuerySet[Dataset]:
        value = self.value()
        return (
            queryset if value is None else queryset.filter(format="" if value == "none" else value)
        )


@admin.register(Dataset)
class DatasetAdmin(OwnedAdmin):
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
    actions = ("archive", "restore", *SHARING_ACTIONS)
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
    # The file is what it is and the check alone says what is in it; people may change what they
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
        return super().has_delete_permission(request, obj) and (obj is None or not uses_count(obj))

    def save_model(self, request: HttpRequest, obj: Dataset, form: Any, change: bool) -> None:
        # Not save(): a running check writes other fields of this row at the same time.
        dataset_update(
            dataset=obj, by=operator(request), name=obj.name, description=obj.description
        )

    def delete_model(self, request: HttpRequest, obj: Dataset) -> None:
        dataset_delete(dataset=obj, by=operator(request))

    def view_on_site(self, obj: Dataset) -> str:
        return obj.get_absolute_url()

    @admin.action(description="Archive the chosen datasets", permissions=["change"])
    def archive(self, request: HttpRequest, datasets: QuerySet[Dataset]) -> None:
        for dataset in datasets:
            dataset_archive(dataset=dataset, by=operator(request))

        self.message_user(request, f"Archived: {len(datasets)}.", messages.SUCCESS)

    @admin.action(description="Take the chosen datasets out of the archive", permissions=["change"])
    def restore(self, request: HttpRequest, datasets: QuerySet[Dataset]) -> None:
        for dataset in datasets:
            dataset_restore(dataset=dataset, by=operator(request))

        self.message_user(request, f"Restored: {len(datasets)}.", messages.SUCCESS)


@admin.register(Label)
class LabelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name",)
    search_fields = ("name",)
