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
# Of one browser that several people share.
PEOPLE_KNOWN = 10


def cookie_name() -> str:
    """Two copies of the platform on one host differ by port only, and cookies ignore ports."""
    return f"deepextension_browser_{settings.PORT}"


def browser_of(request: HttpRequest, user: Any) -> str:
    """The name of this browser for this person, "" if the person never signed in with it."""
    if user is None:
        return ""

    names = _names_read(request)
    return str(names.get(str(user.pk), ""))


def browser_remember(request: HttpRequest, response: HttpResponseBase, user: Any) -> None:
    """Let the browser prove next time that this person has used it. Several people may share one
    browser."""
    names = _names_read(request)
    key = str(user.pk)
    # The latest sign-in goes last.
    name = names.pop(key, "") or secrets.token_urlsafe(9)
    names[key] = name
    newest = dict(list(names.items())[-PEOPLE_KNOWN:])

    response.set_cookie(
        cookie_name(),
        signing.dumps(newest, salt=SALT),
        max_age=SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _names_read(request: HttpRequest) -> dict[str, str]:
    """{user id: this browser's name for that person}, from the cookie."""
    text = request.COOKIES.get(cookie_name(), "")

    try:
        return dict(signing.loads(text, salt=SALT, max_age=SECONDS))
    except signing.BadSignature:
        return {}
