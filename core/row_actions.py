"""Buttons of a row's page: each changes the row, then shows a page that says so."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from django.contrib import messages
from django.db.models import Model
from django.http import HttpRequest, HttpResponseRedirect
from django.shortcuts import redirect
from django.views import View

from core.errors import UserError

M = TypeVar("M", bound=Model)


class RowActionView(View, Generic[M]):
    """A subclass says which row the address names, and what is done with it."""

    http_method_names = ("post",)

    def get_row(self, request: HttpRequest, pk: int) -> M:
        """Raises Http404, or PermissionDenied where the reader may not change the row."""
        raise NotImplementedError

    def change(self, request: HttpRequest, row: M) -> str:
        """Do it; returns a sentence that says what was done. Raises UserError."""
        raise NotImplementedError

    def address_done(self, request: HttpRequest, row: M) -> str:
        return self.address_refused(request, row)

    def address_refused(self, request: HttpRequest, row: M) -> str:
        """The row's own page, unless a subclass knows better."""
        address: str = row.get_absolute_url()  # type: ignore[attr-defined]
        return address

    def post(self, request: HttpRequest, pk: int, **kwargs: Any) -> HttpResponseRedirect:
        row = self.get_row(request, pk)
        try:
            text = self.change(request, row)
        except UserError as error:
            messages.error(request, error.message)
            return redirect(self.address_refused(request, row))

        messages.success(request, text)
        return redirect(self.address_done(request, row))
