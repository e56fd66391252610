"""Who counts as an operator where an account's own page and downloads are decided."""

from __future__ import annotations

from typing import Any

# What somebody may do who looks after everybody's models; the group Operators has it.
PERMISSION = "models_app.change_basemodel"


def is_operator(user: Any) -> bool:
    return bool(user is not None and user.is_active and user.has_perm(PERMISSION))
