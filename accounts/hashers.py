"""Password hashing with a limit on how much of it runs at once.

One hash takes a processor about half a second, by design. Without a limit, a flood of sign-ins, right
or wrong, takes every thread of the web server and every processor, and no page is served any
more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from core.errors import UserError

WAIT_SECONDS = 10


class Busy(UserError):
    """Too many passwords are being checked at this moment."""

    retry_after = 5

    def __init__(self) -> None:
        super().__init__(
            "Too many people are signing in at this moment. Try again in a few seconds.",
            code="busy",
            status=503,
        )


class Gate:
    """Admits `at_once` threads and lets `waiting` more wait their turn; others are refused at
    once."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._places = threading.BoundedSemaphore(at_once + waiting)
        self._turns = threading.BoundedSemaphore(at_once)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Raises Busy if all places are taken, or none is freed within WAIT_SECONDS."""
        if not self._places.acquire(blocking=False):
            raise Busy

        try:
            if not self._turns.acquire(timeout=WAIT_SECONDS):
                raise Busy

            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._places.release()


def _default_gate() -> Gate:
    """At most half of a web process's threads are busy with passwords, and a quarter of them
    computing."""
    quarter = max(1, settings.WEB_THREADS // 4)
    return Gate(at_once=quarter, waiting=quarter)


class GatedPBKDF2PasswordHasher(PBKDF2PasswordHasher):
    """Django's default hash, under its own name: stored passwords stay as they are.

    The limit is here and not at the sign-in, because every way to check or set a password ends
    here, also the check that Django makes for names that do not exist.
    """

    gate = _default_gate()

    def encode(self, password: str, salt: str, iterations: int | None = None) -> Any:
        with self.gate.admitted():
            return super().encode(password, salt, iterations)
