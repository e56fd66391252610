"""Browsers that a person has signed in with before, known by a signed cookie that outlives the
session.

The cookie proves no identity and opens nothing. It only says which limit on wrong passwords
applies."""

from __future__ import annotations

import secrets
from typing import Any

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponseBase

SALT = "accounts.browsers"
SECONDS = 365 * 86_400


def cookie_name() -> str:
    """Two copies on one host differ by port only, and cookies do not know ports."""
    return f"deepextension_browser_{settings.PORT}"


def browser_of(request: HttpRequest, user: Any) -> str:
    """What this browser is called for this person, "" where the person never signed in with it."""
    text = request.COOKIES.get(cookie_name(), "")
    if not text or user is None:
        return ""

    try:
        known: Any = signing.loads(text, salt=SALT, max_age=SECONDS)
    except signing.BadSignature:
        return ""

    return str(known.get(str(user.pk), ""))


def browser_remember(request: HttpRequest, response: HttpResponseBase, user: Any) -> None:
    """Let the browser prove next time that this person has used it. Several people may share one
    browser."""
    try:
        known = signing.loads(request.COOKIES.get(cookie_name(), ""), salt=SALT, max_age=SECONDS)
    except signing.BadSignature:
        known = {}

    others = {key: value for key, value in known.items() if key != str(user.pk)}
    newest = dict(list(others.items())[-9:])
    name = known.get(str(user.pk)) or secrets.token_urlsafe(9)

    response.set_cookie(
        cookie_name(),
        signing.dumps(newest | {str(user.pk): name}, salt=SALT),
        max_age=SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
