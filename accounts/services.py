"""What people may change about their own account."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.http import HttpRequest

from accounts.encryption import DecryptionFailed, decrypt, encrypt
from accounts.models import Profile
from accounts.operators import is_operator
from core.errors import UserError

# As Django's User has it.
LONGEST_EMAIL = 254
HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9_]{4,200}")


def profile_of(user: Any) -> Profile:
    """The person's settings; an unsaved row of defaults if nothing was ever changed."""
    profile = Profile.objects.filter(user=user).first()
    return profile or Profile(user=user)


def account_update(*, user: User, email: str | None = None, notices: bool | None = None) -> None:
    """Change what is not None. Raises UserError for something that is no e-mail address."""
    with transaction.atomic():
        if email is not None:
            user.email = _clean_email(email)
            user.save(update_fields=["email"])

        if notices is not None:
            Profile.objects.update_or_create(user=user, defaults={"notices": notices})


def _clean_email(text: str) -> str:
    text = text.strip()
    if not text:
        return ""

    try:
        validate_email(text)
    except ValidationError as error:
        message = "That is not an e-mail address. Write it like name@example.org."
        raise UserError({"email": [message]}) from error

    if len(text) > LONGEST_EMAIL:
        raise UserError({"email": ["That address is too long."]})

    return text


def password_change(*, user: User, request: HttpRequest, old: str, new: str) -> None:
    """Set a new password. All tokens and all other sessions end with it, see accounts.validators.

    The old password is checked within the same limits as a sign-in from the address of `request`:
    whoever sits down at somebody's open session cannot guess without end.

    Raises UserError where `old` is wrong or `new` is too weak.
    """
    if authenticate(request, username=user.get_username(), password=old) != user:
        raise UserError({"old_password": ["That is not your current password."]})

    try:
        validate_password(new, user)
    except ValidationError as error:
        raise UserError({"new_password": list(error.messages)}) from error

    user.set_password(new)
    user.save(update_fields=["password"])


def notices_wanted(user: Any) -> bool:
    """Whether to e-mail this person when a job ends that they wait for."""
    return bool(user.email) and profile_of(user).notices


def hub_token_set(*, user: Any, token: str) -> None:
    """Store a person's Hugging Face token, encrypted. Raises UserError for what cannot be one."""
    token = token.strip()
    if not HUB_TOKEN.fullmatch(token):
        message = "A Hugging Face token begins with hf_. Copy it as a whole."
        raise UserError({"hub_token": [message]})

    Profile.objects.update_or_create(user=user, defaults={"hub_token": encrypt(token)})


def hub_token_clear(*, user: Any) -> None:
    Profile.objects.filter(user=user).update(hub_token="")


def hub_token_state(user: Any) -> str:
    """ "none", "set", or "unreadable" where the secret key has changed since it was stored."""
    stored = profile_of(user).hub_token
    if not stored:
        return "none"

    try:
        decrypt(stored)
    except DecryptionFailed:
        return "unreadable"

    return "set"


def hub_token_for(user: Any) -> str:
    """The token for a download that this person asked for, "" for none.

    Their own if they have one, otherwise the platform's HF_TOKEN if they may use it: it opens
    private and gated repositories, and whoever downloads with it sees what it can see.
    """
    if own := hub_token_of_their_own(user):
        return own

    if may_use_platform_token(user):
        return str(settings.HF_TOKEN)

    return ""


def hub_token_of_their_own(user: Any) -> str:
    """The token that this person stored, "" for none. What is uploaded is uploaded in their own
    name, and never in the platform's."""
    stored = profile_of(user).hub_token if user is not None else ""
    if not stored:
        return ""

    try:
        return decrypt(stored)
    except DecryptionFailed:
        return ""


def may_use_platform_token(user: Any) -> bool:
    return settings.HF_TOKEN_USERS == "everybody" or is_operator(user)  # noqa: S105 - a choice
