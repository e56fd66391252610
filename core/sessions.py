"""Sessions in the database, and in the cookie itself while the disk is full.

Somebody has to sign in to make room on a full disk, and a new session is a new row. A session that
cannot be stored is signed and sent to the browser instead, as Django's signed_cookies does it; it
ends after an hour. Nothing secret is in it: the user's id and a hash that ends it with the
password."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import UpdateError
from django.core import signing
from django.db import DatabaseError

from core.outages import is_disk_full

SALT = "core.sessions"
SIGNED_SECONDS = 3600


class SessionStore(db.SessionStore):
    """Django's sessions in the database, or signed in the cookie where they cannot be stored."""

    @property
    def is_signed(self) -> bool:
        """Whether the session is in the cookie itself and is no row."""
        # Keys of stored sessions are letters and digits.
        return ":" in (self.session_key or "")

    def load(self) -> dict[str, Any]:
        if not self.is_signed:
            return dict(super().load())

        try:
            data: dict[str, Any] = signing.loads(
                str(self.session_key),
                salt=SALT,
                serializer=self.serializer,
                max_age=SIGNED_SECONDS,
            )
        except signing.BadSignature:
            self._session_key = None
            return {}

        return data

    def save(self, must_create: bool = False) -> None:
        if self.is_signed:
            self._sign()
            return

        try:
            super().save(must_create)
        except (DatabaseError, UpdateError) as error:
            # Django raises UpdateError for a row that could not be changed, whatever the reason.
            if not is_disk_full(error):
                raise

            self._sign()

    def _sign(self) -> None:
        data = getattr(self, "_session_cache", {})
        self._session_key = signing.dumps(
            data, salt=SALT, serializer=self.serializer, compress=True
        )

    def exists(self, session_key: str) -> bool:
        return ":" not in session_key and super().exists(session_key)

    def delete(self, session_key: str | None = None) -> None:
        if ":" not in (session_key or self.session_key or ""):
            super().delete(session_key)
