"""Who counts as an operator where an account's rights are decided. One place, so that it can change in one place."""

from __future__ import annotations

from typing import Any


def is_operator(user: Any) -> bool:
    return bool(user is not None and user.is_active and user.is_staff)
