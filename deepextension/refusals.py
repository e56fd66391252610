"""Error responses that no view makes: unknown addresses, outages and bugs. Programs get the API's one
error shape, people a page."""

from __future__ import annotations

import logging
import sys

from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.shortcuts import render
from django.template import loader
from django.views import defaults

from core.error_shapes import error_of, is_for_programs
from core.outages import Outage, outage_of

logger = logging.getLogger("deepextension.outages")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if wants_json(request):
        body = error_of(request.path, 404, "not_found", "There is nothing at this address.")
        return JsonResponse(body, status=404)

    return defaults.page_not_found(request, exception)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if wants_json(request):
        body = error_of(request.path, 400, "invalid", "This request cannot be understood.")
        return JsonResponse(body, status=400)

    return refusal_page(request, "400.html", 400)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django calls it while it handles the error, of views and middleware alike."""
    error = sys.exc_info()[1]
    outage = outage_of(error)

    if outage is not None:
        logger.warning("%s %s: %s: %s", request.method, request.path, outage.title, error)
        return outage_response(request, outage)

    if isinstance(error, UnreadablePostError):
        # The client is gone.
        return HttpResponse(status=408)

    if wants_json(request):
        text = "Something went wrong here; the server's log has the details."
        body = error_of(request.path, 500, "error", text)
        return JsonResponse(body, status=500)

    return refusal_page(request, "500.html", 500)


def refusal_page(request: HttpRequest, template: str, status: int) -> HttpResponse:
    """The page with its menu, if it can be rendered. The menu asks the database: if that is what
    failed, the page does without."""
    try:
        return render(request, template, status=status)
    except Exception:
        logger.exception("%s is rendered without its menu", template)
        page = loader.render_to_string(template)
        return HttpResponse(page, status=status)


def outage_response(request: HttpRequest, outage: Outage) -> HttpResponse:
    response: HttpResponse

    if wants_json(request):
        body = error_of(request.path, outage.status, outage.code, outage.message)
        response = JsonResponse(body, status=outage.status)
    else:
        # Without a request, and so without the menu, which asks the database: that may be what
        # does not answer.
        page = loader.render_to_string("outage.html", {"outage": outage})
        response = HttpResponse(page, status=outage.status)

    if outage.retry_seconds is not None:
        response["Retry-After"] = str(outage.retry_seconds)

    return response


def wants_json(request: HttpRequest) -> bool:
    """Whether a program asks, or a script of our pages, which accepts nothing but JSON."""
    accept = request.headers.get("Accept", "")
    return is_for_programs(request.path) or accept == "application/json"
