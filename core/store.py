"""Where files live below DEEPEXTENSION_HOME. The database keeps ids; every path is made here from an id."""

from __future__ import annotations

import shutil
from pathlib import Path

from django.conf import settings

from core.errors import UserError

FULL_BYTES = 10 * 10**6


def datasets_folder() -> Path:
    return settings.HOME / "datasets"


def models_folder() -> Path:
    return settings.HOME / "models"


def runs_folder() -> Path:
    return settings.HOME / "runs"


def methods_folder() -> Path:
    return settings.HOME / "methods"


def trials_folder() -> Path:
    return settings.HOME / "trials"


def disk_is_full() -> bool:
    """Whether there is no room left for what the platform itself has to write: sessions, events, logs."""
    return shutil.disk_usage(settings.HOME).free < FULL_BYTES


def require_disk(needed_bytes: int, *, field: str = "") -> None:
    """Raises UserError (507) where writing `needed_bytes` would leave less than the reserve free."""
    free = shutil.disk_usage(settings.HOME).free
    if free - needed_bytes < settings.DISK_RESERVE_BYTES:
        message = f"Not enough disk space: {needed_bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free."
        raise UserError({field: [message]}, code="no_disk_space", status=507)
