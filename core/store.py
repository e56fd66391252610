"""Where files live below DEEPEXTENSION_HOME. The database keeps ids; every path is made here from
an id."""

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
    """Whether there is no room left for what the platform itself has to write: sessions, events,
    logs."""
    return shutil.disk_usage(settings.HOME).free < FULL_BYTES


def require_disk(needed_bytes: int, *, field: str = "") -> None:
    """Raises UserError (507) where writing `needed_bytes` would leave less than the reserve
    free."""
    free = shutil.disk_usage(settings.HOME).free
    if free - needed_bytes < settings.DISK_RESERVE_BYTES:
        message = (
            f"Not enough disk space: {needed_bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free."
        )
        raise UserError({field: [message]}, code="no_disk_space", status=507)


def stored_path(path: Path | str) -> str:
    """A path as the database keeps it: relative to the home where it lies there, so that the home
    can be moved, and as it is elsewhere."""
    path = Path(path)
    return str(path.relative_to(settings.HOME)) if path.is_relative_to(settings.HOME) else str(path)


def located_path(text: str) -> Path:
    """Where a stored path leads to now."""
    return settings.HOME / text


def path_made_relative(text: str, folder: str) -> str:
    """For migrations: a path that an earlier version stored whole, as stored_path has it.

    folder: the one in the home that it lies in. By its name a path is found again that was stored
    before the home was copied to where it is now.
    """
    path = Path(text)
    if not path.is_absolute() or path.is_relative_to(settings.HOME):
        return stored_path(path) if path.is_absolute() else text

    _, found, rest = text.rpartition(f"/{folder}/")
    inside = f"{folder}/{rest}"
    is_copied = bool(found) and not path.exists() and (settings.HOME / inside).exists()

    return inside if is_copied else text


def path_made_whole(text: str) -> str:
    """For migrations: the way back."""
    return str(located_path(text)) if text else text
