"""Who counts as an operator for the account page and for downloads."""

from __future__ import annotations

from typing import Any

# The permission to manage everybody's models, which the group Operators has.
PERMISSION = "models_app.change_basemodel"


def is_operator(user: Any) -> bool:
    if user is None or not user.is_active:
        return False

    return bool(user.has_perm(PERMISSION))
