"""Refusals that no view makes: unknown addresses and bugs. Programs get the API's one error shape, people a page."""

from __future__ import annotations

import logging

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template import loader
from django.views import defaults

from core.api import error_body

logger = logging.getLogger("deepextension.refusals")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith("/api/"):
        return JsonResponse(error_body("not_found", "There is nothing at this address."), status=404)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/api/"):
        return JsonResponse(error_body("error", "Something went wrong here; the server's log has it."), status=500)
    return refusal_page(request, "500.html", 500)


def refusal_page(request: HttpRequest, template: str, status: int) -> HttpResponse:
    """With the menu where the user is known. The menu asks the database: where that is what broke, the page does
    without."""
    try:
        return render(request, template, status=status)
    except Exception:
        logger.exception("%s is drawn without its menu", template)
        return HttpResponse(loader.render_to_string(template), status=status)
