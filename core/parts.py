"""Parts of pages that htmx takes anew (static/parts.js): one address answers the whole page, and to
htmx the part of it that changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.vary import vary_on_headers


def page_or_part(view: Callable[..., Any]) -> Callable[..., Any]:
    """For views that answer both: no cache may give the one for the other."""
    return cache_control(no_store=True)(vary_on_headers("HX-Request")(view))


def wants_part(request: HttpRequest) -> bool:
    """Whether htmx asks, for a page that is open."""
    return request.headers.get("HX-Request") == "true"


def load_again() -> HttpResponse:
    """Has htmx load the whole page again, where more of it changed than the part."""
    return HttpResponse(headers={"HX-Refresh": "true"})
