"""Names and passwords, checked within the limits of accounts.lockout. The only backend, so that no
sign-in bypasses it."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest

from accounts.lockout import Attempt

LONGEST_PASSWORD = 4096


class PasswordBackend(ModelBackend):
    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """The person, or None. Raises lockout.TooManyTries, and hashers.Busy if too many sign in at
        once."""
        if request is None or username is None or password is None:
            # No request: a command of ours, or a test that is not about signing in.
            return super().authenticate(request, username=username, password=password, **kwargs)

        if "\x00" in username or len(username) > 150 or len(password) > LONGEST_PASSWORD:
            return None

        attempt = Attempt.begin(request, username)
        try:
            user = super().authenticate(request, username=username, password=password, **kwargs)
        except BaseException:
            attempt.withdrawn()
            raise

        if user is None:
            attempt.failed()
        else:
            attempt.succeeded(user)
            # For accounts.middleware, which has the response.
            request.signed_in = user  # type: ignore[attr-defined]

        return user
