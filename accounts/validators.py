"""What a change of password ends, whether on the account page, by the API, by mail, in the admin or
on the command line.

Django notifies every password validator of a change, after it was saved, and not when it merely
rehashes the same password: exactly when tokens must end, and when they must not."""

from __future__ import annotations

from typing import Any

from accounts.lockout import account_unlock
from accounts.models import KnownAddress
from accounts.tokens import tokens_revoke_all


class EndTokensOnChange:
    """Sessions end by themselves: each holds a digest of the password that it began with."""

    def validate(self, password: str, user: Any = None) -> None:
        """Any password will do here."""

    def get_help_text(self) -> str:
        return (
            "All your API tokens and your sessions in other browsers end when the password changes."
        )

    def password_changed(self, password: str, user: Any = None) -> None:
        if user is None or user.pk is None:
            return

        tokens_revoke_all(user=user)
        # Whoever knew the old password may have signed in from anywhere.
        KnownAddress.objects.filter(user=user).delete()
        account_unlock(user.get_username())
