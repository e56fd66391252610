"""What is true of every page: dates in the reader's time zone, and whose styles the browser may believe."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from typing import Any

from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone


class ReaderTimeZoneMiddleware:
    """The page's script keeps the browser's zone in a cookie."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            zone = zoneinfo.ZoneInfo(request.COOKIES.get("timezone", "UTC"))
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            zone = zoneinfo.ZoneInfo("UTC")
        with timezone.override(zone):
            return self.get_response(request)


class QueuePagesMiddleware:
    """django-rq draws its pages with styles inside the HTML: allowed there and nowhere else. Scripts are not."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.loosen = csp_update({"style-src": ["'unsafe-inline'"]})

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., HttpResponse], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponseBase | None:
        if request.resolver_match is None or "django_rq" not in request.resolver_match.app_names:
            return None
        return self.loosen(view)(request, *args, **kwargs)
