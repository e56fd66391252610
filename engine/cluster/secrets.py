"""Variables for the ranks that may not be read by others: the judge's key, the storage's. Ray writes
the environment of a job into its logs and shows it on its dashboard, so they travel encrypted with the
cluster's token, which all nodes have."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from engine.messages.failures import TrainError

NAMES = ("DEEPEXTENSION_JUDGE_", "DEEPEXTENSION_STORAGE")
TOKEN_FILE = Path("~/.ray/auth_token")


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What ranks need of the client's environment, proxies included: their addresses may hold a
    password."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(NAMES) or name.lower().endswith("_proxy")
    }


def seal(values: dict[str, str], token: str) -> str:
    """ "" for none. Without a token, of a cluster that wants none, everybody may read them."""
    if not values:
        return ""

    from cryptography.fernet import Fernet

    return Fernet(_key(token)).encrypt(json.dumps(values).encode()).decode()


def unseal(text: str) -> dict[str, str]:
    """With the token of this node. Raises TrainError where that is another one."""
    if not text:
        return {}

    from cryptography.fernet import Fernet, InvalidToken

    try:
        return dict(json.loads(Fernet(_key(token_here())).decrypt(text.encode())))
    except InvalidToken as error:
        raise TrainError(
            "other_token",
            "This node of the Ray cluster has another token than the platform.",
            "Ask your operator to start all nodes with the same token.",
        ) from error


def token_here() -> str:
    """As Ray finds it."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token

    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _key(token: str) -> bytes:
    return base64.urlsafe_b64encode(hashlib.sha256(f"deepextension\0{token}".encode()).digest())
