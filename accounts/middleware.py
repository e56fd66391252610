"""Answers to sign-ins that are refused for now, and the cookie by which a browser is known next
time."""

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
        signed_in = getattr(request, "signed_in", None)
        if signed_in is not None and not request.path.startswith("/api/"):
            browser_remember(request, response, signed_in)

        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Pages only: the API's own exception handler answers programs."""
        if not isinstance(error, TooManyTries | Busy):
            return None

        context: dict[str, Any] = {"error": error, "locked": isinstance(error, TooManyTries)}
        if isinstance(error, TooManyTries):
            context |= {"wait": minutes(error.retry_after), "until": error.until}

        response = render(request, "registration/locked.html", context, status=error.status)
        response["Retry-After"] = str(error.retry_after)
        return response
