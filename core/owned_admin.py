"""Actions of the administration for everything that belongs to people: share it, hand it over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from core.errors import UserError
from core.ownership import has_right, owner_set, sharing_set
from core.requests import reader_of

SHARING_ACTIONS = ("share", "stop_sharing", "hand_over")
ARCHIVE_ACTIONS = ("archive", "restore")


class HandOverForm(forms.Form):
    to = forms.ModelChoiceField(
        label="Who gets it",
        queryset=User.objects.filter(is_active=True).order_by("username"),
        empty_label="Choose a person",
    )


class PartInline(admin.TabularInline):  # type: ignore[type-arg]
    """Parts of a row, to be seen by whoever may see the row. A subclass names `model` and `fields`."""

    extra = 0
    can_delete = False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return has_right(request.user, "view", self.parent_model)


class OwnedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A subclass lists SHARING_ACTIONS among its actions."""

    def has_share_permission(self, request: HttpRequest) -> bool:
        return has_right(request.user, "share", self.model)

    @admin.action(description="Share with everyone", permissions=["share"])
    def share(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self.change_each(
            request,
            rows,
            lambda row, by: sharing_set(row, by=by, shared=True),
            "Shared with everyone",
        )

    @admin.action(description="Stop sharing", permissions=["share"])
    def stop_sharing(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self.change_each(
            request, rows, lambda row, by: sharing_set(row, by=by, shared=False), "No longer shared"
        )

    @admin.action(description="Hand over to another person", permissions=["change"])
    def hand_over(self, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse | None:
        form = HandOverForm(request.POST if "to" in request.POST else None)
        if not form.is_valid():
            context = {
                **self.admin_site.each_context(request),
                "title": "Hand over to another person",
                "opts": self.model._meta,
                "rows": rows,
                "form": form,
            }

            return TemplateResponse(request, "admin/hand_over.html", context)

        owner = form.cleaned_data["to"]
        self.change_each(
            request,
            rows,
            lambda row, by: owner_set(row, by=by, owner=owner),
            f"Handed over to {owner.get_username()}",
        )
        return None

    def change_each(
        self,
        request: HttpRequest,
        rows: QuerySet[Any],
        change: Callable[[Any, User], object],
        done: str,
    ) -> None:
        """`change` for each row; what is refused for one does not keep the others from it.

        done: what was done, in front of the names of those for which it was.
        """
        by = reader_of(request)
        changed = []

        for row in rows:
            try:
                change(row, by)
                changed.append(str(row))
            except UserError as error:
                self.message_user(request, f"{row}: {error.message}", messages.ERROR)
            except PermissionDenied:
                self.message_user(request, f"{row}: you may not change this.", messages.ERROR)

        if changed:
            self.message_user(request, f"{done}: {', '.join(changed)}.", messages.SUCCESS)


class ArchivableAdmin(OwnedAdmin):
    """For rows with `archived_at`. A subclass lists ARCHIVE_ACTIONS among its actions, and gives the
    services that archive and restore one row."""

    def archive_row(self, row: Any, by: User) -> None:
        raise NotImplementedError

    def restore_row(self, row: Any, by: User) -> None:
        raise NotImplementedError

    @admin.action(description="Archive: no longer offer for new trains", permissions=["change"])
    def archive(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self.change_each(request, rows, self.archive_row, "Archived")

    @admin.action(description="Restore: offer for new trains again", permissions=["change"])
    def restore(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self.change_each(request, rows, self.restore_row, "Restored")
