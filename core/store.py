"""Where files live below DEEPEXTENSION_HOME. The database keeps ids, and paths are made from ids
below the folders of this module."""

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


def exports_folder() -> Path:
    return settings.HOME / "exports"


def runs_folder() -> Path:
    return settings.HOME / "runs"


def jobs_folder() -> Path:
    return settings.HOME / "jobs"


def methods_folder() -> Path:
    return settings.HOME / "methods"


def trials_folder() -> Path:
    return settings.HOME / "trials"


def openai_folder() -> Path:
    """Files that programs sent through OpenAI's API and that are no datasets."""
    return settings.HOME / "openai"


def disk_is_full() -> bool:
    """Whether the disk has no room left for what the platform itself writes: sessions, events,
    logs."""
    return shutil.disk_usage(settings.HOME).free < FULL_BYTES


def require_disk(needed_bytes: int, *, field: str = "") -> None:
    """Raises UserError (507) where writing `needed_bytes` would leave less than the reserve
    free."""
    free_bytes = shutil.disk_usage(settings.HOME).free
    if free_bytes - needed_bytes >= settings.DISK_RESERVE_BYTES:
        return

    message = (
        f"Not enough disk space: {needed_bytes / 1e9:.1f} GB needed, "
        f"{free_bytes / 1e9:.1f} GB free."
    )
    raise UserError({field: [message]}, code="no_disk_space", status=507)


def stored_path(path: Path | str) -> str:
    """A path as the database keeps it: relative to the home if it lies inside, so that the home
    can be moved, and unchanged otherwise."""
    path = Path(path)
    if path.is_relative_to(settings.HOME):
        path = path.relative_to(settings.HOME)

    return str(path)


def located_path(text: str) -> Path:
    """The path that `stored_path` stored, below the present home."""
    return settings.HOME / text


def make_path_relative(text: str, folder: str) -> str:
    """For migrations: an absolute path of an earlier version, as `stored_path` would store it.

    folder: the folder of the home that it lies in. By its name a path is recognised that was stored
    before the home was copied to where it is now.
    """
    path = Path(text)
    if not path.is_absolute():
        return text
    if path.is_relative_to(settings.HOME):
        return stored_path(path)

    _, separator, rest = text.rpartition(f"/{folder}/")
    inside = f"{folder}/{rest}"
    was_copied = not path.exists() and (settings.HOME / inside).exists()

    return inside if separator and was_copied else text


def make_path_absolute(text: str) -> str:
    """For migrations: the reverse of make_path_relative."""
    return str(located_path(text)) if text else text
