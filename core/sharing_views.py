"""The page's buttons Share with everyone and Stop sharing, for whatever belongs to people."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views import View

from core.ownership import sharing_set
from core.requests import reader_of, row_or_404


class SharingView(View):
    """`shared`: 1 to share, blank to stop. Used as `SharingView.as_view(model=Dataset)`."""

    model: Any = None  # An Owned one.

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        reader = reader_of(request)
        row = row_or_404(self.model.objects.visible_to(reader), pk)
        shared = bool(request.POST.get("shared"))
        sharing_set(row, by=reader, shared=shared)

        if shared:
            text = f"{row} is shared: everyone on this platform can see it and use it."
        else:
            text = f"{row} is no longer shared. Trains that use it already keep it."

        messages.success(request, text)
        return redirect(row)
