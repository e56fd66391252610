"""Tokens as the API accepts them: valid, of an active person, and with a scope that covers the
call."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone
from knox.auth import TokenAuthentication as KnoxTokenAuthentication
from rest_framework import exceptions
from rest_framework.request import Request

from accounts.models import Token
from accounts.request_limits import request_count
from accounts.scopes import scope_allows
from core.errors import UserError

# A write for every call would make readers wait for each other.
LAST_USED_RESOLUTION = timedelta(minutes=1)
_TOKEN = re.compile(rb"[0-9A-Za-z_-]{15,128}")


class TokenAuthentication(KnoxTokenAuthentication):  # type: ignore[misc]
    """The only place where scopes are enforced: every API view authenticates here."""

    def authenticate(self, request: Request) -> Any:
        """(user, token), or None where the request has no token. Raises UserError: 403 where the
        token's scope does not cover the call, 429 where it has made as many as it may. What is left
        of those is the `allowance` of the HttpRequest, which also knows a refused token
        (`token_seen`)."""
        credentials = super().authenticate(request)
        if credentials is None:
            return None

        user, token = credentials
        method = request.method or ""
        match = request._request.resolver_match
        request._request.token_seen = token  # type: ignore[attr-defined]

        if match is None or not scope_allows(token.scope, method, match):
            raise UserError(_too_small(token), code="token_scope", status=403)

        _mark_used(token)
        request_count(request._request, str(token.public_id), token.request_limit)
        return user, token

    def authenticate_credentials(self, token: bytes) -> Any:
        if not _TOKEN.fullmatch(token):
            raise exceptions.AuthenticationFailed("Invalid token.")

        return super().authenticate_credentials(token)


def _too_small(token: Token) -> str:
    return (
        f"The token “{token.name}” has the scope {token.scope_title}, which does not cover this call. "
        "Use a token with a wider scope; your account page makes one."
    )


def _mark_used(token: Token) -> None:
    now = timezone.now()
    fresh_since = now - LAST_USED_RESOLUTION

    if token.last_used is not None and token.last_used >= fresh_since:
        return

    # Another request may have marked it in the meantime.
    stale = Q(last_used=None) | Q(last_used__lt=fresh_since)
    Token.objects.filter(stale, pk=token.pk).update(last_used=now)
