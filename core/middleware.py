"""Middleware of every page: dates in the reader's time zone, and the pages of the job queue for those
who may see them."""

from __future__ import annotations

import logging
import zoneinfo
from collections.abc import Callable
from typing import Any

from csp.decorators import csp_update
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import DatabaseError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from redis.exceptions import RedisError

logger = logging.getLogger("deepextension.queue")


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


QUEUE_PAGES = "django_rq"
QUEUE_PAGES_PERMISSION = "django_rq.admin"


class QueuePagesMiddleware:
    """The raw pages of the job queue, which django-rq shows to every member of staff, take a
    permission here.

    They have styles inside the HTML, which the content security policy allows on them and nowhere
    else, and no scripts.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.loosen = csp_update({"style-src": ["'unsafe-inline'"]})

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self,
        request: HttpRequest,
        view: Callable[..., HttpResponse],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> HttpResponseBase | None:
        # By the view and not by its address: django-rq adds the same pages to the admin, too.
        package = getattr(view, "__module__", "").partition(".")[0]
        if package != QUEUE_PAGES:
            return None

        if request.user.is_authenticated and not request.user.has_perm(QUEUE_PAGES_PERMISSION):
            raise PermissionDenied

        return self.loosen(_not_found_for_odd_ids(view))(request, *args, **kwargs)


def _not_found_for_odd_ids(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """django-rq does not check its ids: there, an unknown queue is an IndexError, a worker that is
    gone an AttributeError, and a job that cannot be read any of a dozen errors."""

    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except (Http404, PermissionDenied, SuspiciousOperation, DatabaseError, RedisError):
            raise
        except Exception as error:
            if not kwargs:
                raise

            logger.info("not found in the queue: %s: %r", request.path[:200], error)
            raise Http404("There is no such queue, job or worker.") from error

    return answer
