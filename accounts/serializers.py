"""Accounts and tokens in the API."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework import serializers

from accounts.models import Token
from accounts.scopes import SCOPES
from accounts.tokens import DEFAULT_SCOPE, LONGEST_DAYS, MOST_REQUESTS
from core.api import StrictSerializer

SCOPE_HELP = " ".join(f"`{scope.name}`: {scope.description}" for scope in SCOPES.values())


class CredentialsSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=4096, trim_whitespace=False)
    name = serializers.CharField(
        max_length=80, default="Sign-in by a program", help_text="What will use the token."
    )
    scope = serializers.ChoiceField(
        choices=list(SCOPES), default=DEFAULT_SCOPE, help_text=SCOPE_HELP
    )


class SignedInSerializer(serializers.Serializer[Any]):
    token = serializers.CharField(read_only=True, help_text="Shown this once.")
    expires_at = serializers.DateTimeField(read_only=True)


class TokenSerializer(serializers.Serializer[Token]):
    """A token without its text, which nobody can read again."""

    id = serializers.UUIDField(source="public_id", read_only=True)
    name = serializers.CharField(read_only=True)
    scope = serializers.CharField(read_only=True, help_text=SCOPE_HELP)
    created_at = serializers.DateTimeField(source="created", read_only=True)
    last_used_at = serializers.DateTimeField(source="last_used", read_only=True, allow_null=True)
    expires_at = serializers.DateTimeField(source="expiry", read_only=True, allow_null=True)
    requests_per_minute = serializers.IntegerField(
        source="request_limit", read_only=True, help_text="0 for no limit."
    )


class NewTokenSerializer(TokenSerializer):
    token = serializers.SerializerMethodField(help_text="Shown this once.")

    def get_token(self, row: Token) -> str:
        return str(self.context["text"])


class TokenCreateSerializer(StrictSerializer):
    name = serializers.CharField(max_length=80, help_text="What will use the token.")
    scope = serializers.ChoiceField(
        choices=list(SCOPES), default=DEFAULT_SCOPE, help_text=SCOPE_HELP
    )
    days = serializers.IntegerField(
        min_value=1,
        max_value=LONGEST_DAYS,
        default=settings.TOKEN_DAYS,
        help_text="Until it expires.",
    )
    requests_per_minute = serializers.IntegerField(
        min_value=0,
        max_value=MOST_REQUESTS,
        allow_null=True,
        default=None,
        help_text="How many calls it may make a minute; 0 for no limit, null for the platform's "
        "default.",
    )


class AccountSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(read_only=True)
    email = serializers.CharField(read_only=True)
    notices = serializers.BooleanField(
        read_only=True,
        help_text="E-mail when a train of mine ends, or a check or import that took minutes.",
    )
    hub_token = serializers.ChoiceField(
        choices=["none", "set", "unreadable"],
        read_only=True,
        help_text="Whether a Hugging Face token is stored. `unreadable`: the platform's secret key "
        "has changed since.",
    )


class AccountUpdateSerializer(StrictSerializer):
    email = serializers.CharField(max_length=254, allow_blank=True, required=False)
    notices = serializers.BooleanField(required=False)
    hub_token = serializers.CharField(
        max_length=220,
        allow_blank=True,
        required=False,
        write_only=True,
        help_text="A Hugging Face token for your own downloads, stored encrypted and never shown. "
        "Blank removes it.",
    )


class PasswordChangeSerializer(StrictSerializer):
    old_password = serializers.CharField(max_length=4096, trim_whitespace=False, write_only=True)
    new_password = serializers.CharField(max_length=4096, trim_whitespace=False, write_only=True)
