"""What belongs to a person's account: tokens for programs, preferences, and what protects the
sign-in."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from knox.models import AbstractAuthToken

from accounts.scopes import SCOPES


class Token(AbstractAuthToken):  # type: ignore[misc]
    """A token for programs, hashed at rest: knox's, with a name, a scope and the time of its last
    use."""

    # Identifies a token in pages and in the API. Its primary key is the digest, which stays in the
    # database.
    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=80)
    # A name of accounts.scopes.SCOPES. No `choices`: a new scope is no change of the database.
    scope = models.CharField(max_length=20, default="all")
    last_used = models.DateTimeField(null=True, blank=True, editable=False)
    requests_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="How many calls it may make; 0 for any number, nothing for the platform's default.",
    )

    class Meta:
        ordering = ("-created",)

    def __str__(self) -> str:
        return f"{self.name} ({self.user})"

    @property
    def scope_title(self) -> str:
        if self.scope not in SCOPES:
            return self.scope

        return SCOPES[self.scope].title

    @property
    def request_limit(self) -> int:
        """Calls a minute; 0 for any number."""
        if self.requests_per_minute is None:
            return int(settings.REQUESTS_PER_MINUTE)

        return self.requests_per_minute


class Profile(models.Model):
    """A person's own settings. A person without a row has the defaults."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="profile"
    )
    notices = models.BooleanField("e-mail when a train ends", default=True)
    # Encrypted, see accounts.encryption; "" for none.
    hub_token = models.TextField(blank=True, default="", editable=False)

    def __str__(self) -> str:
        return str(self.user)


class SignInCounter(models.Model):
    """Failed sign-ins of one kind, see accounts.lockout. A row that has expired counts as zero."""

    class Kind(models.TextChoices):
        ADDRESS = "address", "From one address"
        ACCOUNT = "account", "For one account"
        PAIR = "pair", "For one account from one address"
        BROWSER = "browser", "For one account from a browser that it has used before"
        RESET_ADDRESS = "reset-address", "Password resets asked for from one address"
        RESET_ACCOUNT = "reset-account", "Password resets asked for one account"

    kind = models.CharField(max_length=20, choices=Kind.choices)
    key = models.CharField(max_length=400)
    count = models.PositiveIntegerField(default=0)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=("kind", "key"), name="sign_in_counter_unique")
        ]
        verbose_name = "failed sign-ins"
        verbose_name_plural = "failed sign-ins"

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.key}"


class KnownAddress(models.Model):
    """An address from which a person has signed in. An attack on the account does not lock it out
    there."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="known_addresses"
    )
    address = models.CharField(max_length=60)
    last_seen = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=("user", "address"), name="known_address_unique")
        ]
        verbose_name_plural = "known addresses"

    def __str__(self) -> str:
        return f"{self.user} from {self.address}"
