"""The page for sign-ins that are refused for now, and the cookie by which a browser is recognised
next time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from accounts.browsers import browser_remember
from accounts.hashers import Busy
from accounts.lockout import TooManyTries, minutes


class SignInMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        # Set by accounts.backends.
        user = getattr(request, "signed_in", None)
        is_program = request.path.startswith("/api/")

        if user is not None and not is_program:
            browser_remember(request, response, user)

        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Pages only: the API's own exception handler answers programs."""
        if not isinstance(error, TooManyTries | Busy):
            return None

        context: dict[str, Any] = {"error": error, "locked": False}

        if isinstance(error, TooManyTries):
            context["locked"] = True
            context["wait"] = minutes(error.retry_after)
            context["until"] = error.until

        response = render(request, "registration/locked.html", context, status=error.status)
        response["Retry-After"] = str(error.retry_after)
        return response
