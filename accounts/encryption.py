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


class DecryptionFailed(Exception):
    """It was encrypted with another SECRET_KEY, or damaged."""


def encrypt(text: str) -> str:
    encrypted = _fernet().encrypt(text.encode())
    return encrypted.decode()


def decrypt(text: str) -> str:
    """Raises DecryptionFailed."""
    try:
        decrypted = _fernet().decrypt(text.encode())
    except InvalidToken as error:
        raise DecryptionFailed from error

    return decrypted.decode()


def _fernet() -> MultiFernet:
    """New secrets use SECRET_KEY; those of earlier keys (SECRET_KEY_FALLBACKS) can still be
    read."""
    secret_keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    ciphers = [Fernet(_derived(str(secret_key))) for secret_key in secret_keys]

    return MultiFernet(ciphers)


def _derived(key: str) -> bytes:
    """A key of 32 bytes in URL-safe base64, as Fernet takes it, derived by HKDF (RFC 5869)."""
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE)
    derived = derivation.derive(key.encode())

    return base64.urlsafe_b64encode(derived)
