"""The page's buttons Share with everyone and Stop sharing, for whatever belongs to people."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views import View

from core.ownership import sharing_set

LARGEST_ID = 2**63 - 1


class SharingView(View):
    """`shared`: 1 to share, blank to stop. Used as `SharingView.as_view(model=Dataset)`."""

    model: Any = None  # An Owned one.

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        assert isinstance(request.user, User)
        if pk > LARGEST_ID:
            raise Http404

        row = self.model.objects.visible_to(request.user).filter(pk=pk).first()
        if row is None:
            raise Http404

        shared = bool(request.POST.get("shared"))
        sharing_set(row, by=request.user, shared=shared)

        if shared:
            text = f"{row} is shared: everyone on this platform can see it and use it."
        else:
            text = f"{row} is no longer shared. Trains that use it already keep it."

        messages.success(request, text)
        return redirect(row)
