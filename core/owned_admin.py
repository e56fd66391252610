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

SHARING_ACTIONS = ("share", "stop_sharing", "hand_over")


class HandOverForm(forms.Form):
    to = forms.ModelChoiceField(
        label="Who gets it",
        queryset=User.objects.filter(is_active=True).order_by("username"),
        empty_label="Choose a person",
    )


class OwnedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A subclass lists SHARING_ACTIONS among its actions."""

    def has_share_permission(self, request: HttpRequest) -> bool:
        return has_right(request.user, "share", self.model)

    @admin.action(description="Share with everyone", permissions=["share"])
    def share(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self._change_each(
            request,
            rows,
            lambda row, by: sharing_set(row, by=by, shared=True),
            "Shared with everyone",
        )

    @admin.action(description="Stop sharing", permissions=["share"])
    def stop_sharing(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self._change_each(
            request,
            rows,
            lambda row, by: sharing_set(row, by=by, shared=False),
            "No longer shared",
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
        self._change_each(
            request,
            rows,
            lambda row, by: owner_set(row, by=by, owner=owner),
            f"Handed over to {owner.get_username()}",
        )
        return None

    def _change_each(
        self,
        request: HttpRequest,
        rows: QuerySet[Any],
        change: Callable[[Any, User], None],
        done: str,
    ) -> None:
        """Change what may be changed and say what happened. done: how the message about the changed
        rows begins."""
        assert isinstance(request.user, User)
        changed = []

        for row in rows:
            try:
                change(row, request.user)
                changed.append(str(row))
            except UserError as error:
                self.message_user(request, f"{row}: {error.message}", messages.ERROR)
            except PermissionDenied:
                self.message_user(request, f"{row}: you may not change this.", messages.ERROR)

        if changed:
            self.message_user(request, f"{done}: {', '.join(changed)}.", messages.SUCCESS)
