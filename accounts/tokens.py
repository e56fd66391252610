"""Tokens for programs: creating, listing and revoking them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.models import Token
from accounts.scopes import SCOPES
from core.errors import UserError
from core.text import clean_label

LONGEST_DAYS = 3650
MOST_REQUESTS = 1_000_000
DEFAULT_SCOPE = "all"


def tokens_valid() -> QuerySet[Token]:
    """Tokens that have not expired, of everybody, the newest first."""
    tokens: QuerySet[Token] = Token.objects.filter(Q(expiry=None) | Q(expiry__gt=timezone.now()))
    return tokens


def tokens_of(user: Any) -> QuerySet[Token]:
    """The person's tokens that have not expired, the newest first."""
    return tokens_valid().filter(user=user)


def token_create(
    *,
    user: Any,
    name: str,
    scope: str = DEFAULT_SCOPE,
    days: int | None = None,
    lifetime: timedelta | None = None,
    requests_per_minute: int | None = None,
) -> tuple[Token, str]:
    """Returns (the token's row, its text). The text is stored nowhere: show it now or never.

    days: until it expires, TOKEN_DAYS by default. lifetime: for shorter-lived tokens of our own
    commands. requests_per_minute: 0 for no limit, None for the platform's default.

    Raises UserError for an invalid name, scope, number of days or of requests, and where this person has
    TOKENS_PER_PERSON already.
    """
    name = clean_label(name, limit=80)
    if days is None:
        days = settings.TOKEN_DAYS

    fields = {}

    if not name:
        fields["name"] = ["Name it after what will use it, such as “nightly script”."]
    if scope not in SCOPES:
        fields["scope"] = [f"Choose one of {', '.join(SCOPES)}."]
    if not 1 <= days <= LONGEST_DAYS:
        fields["days"] = [f"Choose between 1 and {LONGEST_DAYS:,} days."]
    if requests_per_minute is not None and not 0 <= requests_per_minute <= MOST_REQUESTS:
        fields["requests_per_minute"] = [f"Choose at most {MOST_REQUESTS:,}; 0 for no limit."]
    if fields:
        raise UserError(fields)

    with transaction.atomic():
        # Locks the person's row: of two requests at once the second counts the first one's token.
        get_user_model().objects.select_for_update().get(pk=user.pk)
        Token.objects.filter(user=user, expiry__lte=timezone.now()).delete()
        _require_room(user)
        expiry = lifetime or timedelta(days=days)
        token, text = Token.objects.create(
            user=user,
            name=name,
            scope=scope,
            expiry=expiry,
            requests_per_minute=requests_per_minute,
        )

    return token, text


def _require_room(user: Any) -> None:
    most = settings.TOKENS_PER_PERSON
    if Token.objects.filter(user=user).count() >= most:
        raise UserError(
            f"You have {most} tokens already, which is the most a person may have. Revoke one that "
            "is no longer used.",
            code="too_many_tokens",
            status=409,
        )


def token_revoke(*, user: Any, public_id: Any) -> bool:
    """Revoke one of this person's tokens. Returns whether there was such a token."""
    deleted, _ = Token.objects.filter(user=user, public_id=public_id).delete()
    return bool(deleted)


def tokens_revoke_all(*, user: Any) -> int:
    """Revoke all of this person's tokens. Returns how many there were."""
    deleted, _ = Token.objects.filter(user=user).delete()
    return int(deleted)
