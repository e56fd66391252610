"""Accounts in the API, and the bodies that it accepts."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.contrib.auth.validators import UnicodeUsernameValidator
from rest_framework import serializers

from core.api import StrictSerializer
from people.holdings import holdings_count
from people.models import PersonRemoval


class RemovalSerializer(serializers.ModelSerializer[PersonRemoval]):
    hand_over_to = serializers.CharField(
        source="hand_over_to.username", default=None, allow_null=True
    )

    class Meta:
        model = PersonRemoval
        fields = ("hand_over_to", "delete_data", "asked_at", "obstacle")


class PersonSerializer(serializers.ModelSerializer[User]):
    """Context: {"holdings": holdings_count(people)}, where there are several."""

    # Most accounts have none, which an e-mail field of the schema would not allow.
    email = serializers.CharField(read_only=True)
    holdings = serializers.SerializerMethodField(help_text="{kind: how many belong to this person}")
    removal = RemovalSerializer(
        read_only=True,
        allow_null=True,
        help_text="While the account is being removed: what was asked for.",
    )

    class Meta:
        model = User
        fields = (
            "id",
            "username",
            "first_name",
            "last_name",
            "email",
            "is_active",
            "is_staff",
            "is_superuser",
            "date_joined",
            "last_login",
            "holdings",
            "removal",
        )
        read_only_fields = fields

    def get_holdings(self, person: User) -> dict[str, int]:
        counts: dict[int, dict[str, int]] | None = self.context.get("holdings")
        if not counts:
            counts = holdings_count([person])

        return counts[person.pk]

    def to_representation(self, person: User) -> dict[str, Any]:
        # Without such a row, reading the relation raises, and the serializer leaves the field out.
        return {"removal": None} | super().to_representation(person)


class PersonUpdateSerializer(StrictSerializer):
    first_name = serializers.CharField(max_length=150, required=False, allow_blank=True)
    last_name = serializers.CharField(max_length=150, required=False, allow_blank=True)
    email = serializers.EmailField(max_length=254, required=False, allow_blank=True)
    is_active = serializers.BooleanField(
        required=False, help_text="False: nobody can sign in with it."
    )


class PersonCreateSerializer(StrictSerializer):
    username = serializers.CharField(
        max_length=150,
        validators=[UnicodeUsernameValidator()],
        help_text="Letters, digits and @/./+/-/_.",
    )
    password = serializers.CharField(max_length=4096, trim_whitespace=False, write_only=True)
    first_name = serializers.CharField(max_length=150, required=False, allow_blank=True)
    last_name = serializers.CharField(max_length=150, required=False, allow_blank=True)
    email = serializers.EmailField(max_length=254, required=False, allow_blank=True)


class RemovalQuerySerializer(StrictSerializer):
    hand_over_to = serializers.CharField(
        required=False,
        max_length=150,
        help_text="User name of the person who gets everything; with delete_data, who gets what "
        "others use.",
    )
    delete_data = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Stop the trains and delete everything with its files.",
    )
