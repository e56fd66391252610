"""Operators look after base models; what an import found is not theirs to write."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.errors import UserError
from core.owned_admin import SHARING_ACTIONS, OwnedAdmin
from models_app.models import BaseModel
from models_app.services import (
    model_archive,
    model_delete,
    model_restore,
    model_retry,
    model_update,
)


@admin.register(BaseModel)
class BaseModelAdmin(OwnedAdmin):
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
    actions = ("archive", "restore", "retry", *SHARING_ACTIONS)
    editable = ("name", "description")

    def get_fields(self, request: HttpRequest, obj: BaseModel | None = None) -> Any:
        facts = [
            field.name
            for field in BaseModel._meta.fields
            if field.name not in ("id", *self.editable)
        ]

        return [*self.editable, *facts]

    def get_readonly_fields(self, request: HttpRequest, obj: BaseModel | None = None) -> list[str]:
        return [name for name in self.get_fields(request, obj) if name not in self.editable]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: BaseModel, form: Any, change: bool) -> None:
        model_update(model=obj, by=operator(request), name=obj.name, description=obj.description)

    def delete_model(self, request: HttpRequest, obj: BaseModel) -> None:
        model_delete(model=obj, by=operator(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[BaseModel]) -> None:
        for model in queryset:
            model_delete(model=model, by=operator(request))

    @admin.display(description="Page")
    def page(self, model: BaseModel) -> SafeString:
        return format_html('<a href="{}">Open</a>', model.get_absolute_url())

    @admin.action(description="Archive: offer no longer for new trains", permissions=["change"])
    def archive(self, request: HttpRequest, models: QuerySet[BaseModel]) -> None:
        self._each(request, models, model_archive, "Archived")

    @admin.action(description="Restore: offer again", permissions=["change"])
    def restore(self, request: HttpRequest, models: QuerySet[BaseModel]) -> None:
        self._each(request, models, model_restore, "Restored")

    @admin.action(description="Try the import again", permissions=["change"])
    def retry(self, request: HttpRequest, models: QuerySet[BaseModel]) -> None:
        self._each(request, models, model_retry, "Begun again")

    def _each(
        self, request: HttpRequest, models: QuerySet[BaseModel], change: Any, word: str
    ) -> None:
        """The service for each model; a refusal of one does not keep the others."""
        done = []
        for model in models:
            try:
                change(model=model, by=operator(request))
                done.append(model.name)
            except UserError as error:
                self.message_user(request, f"{model.name}: {error.message}", messages.ERROR)

        if done:
            self.message_user(request, f"{word}: {', '.join(done)}.")


def operator(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user
