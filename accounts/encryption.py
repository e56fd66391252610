"""Secrets of people, encrypted at rest with a key derived from SECRET_KEY.

Whoever has a copy of the database alone cannot read them; whoever has the secret key as well can.
"""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

PURPOSE = b"deepextension: secrets of people"


class Unreadable(Exception):
    """It was encrypted with another SECRET_KEY, or damaged."""


def encrypt(text: str) -> str:
    return _fernet().encrypt(text.encode()).decode()


def decrypt(text: str) -> str:
    """Raises Unreadable."""
    try:
        return _fernet().decrypt(text.encode()).decode()
    except InvalidToken as error:
        raise Unreadable from error


def _fernet() -> MultiFernet:
    """New secrets use SECRET_KEY; those of earlier keys (SECRET_KEY_FALLBACKS) can still be
    read."""
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return MultiFernet([Fernet(_derived(str(key))) for key in keys])


def _derived(key: str) -> bytes:
    """32 bytes in URL-safe base64, as Fernet wants them (RFC 5869)."""
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(key.encode())
    return base64.urlsafe_b64encode(derived)
