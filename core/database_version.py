"""Whether this version of the code knows the database that it finds."""

from __future__ import annotations

from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.recorder import MigrationRecorder


def newer_database() -> str:
    """Why this code must not use the database, if a later version has changed it, or "".

    A database that is empty or cannot be reached is no obstacle here. Changes nothing.
    """
    try:
        with connection.cursor():
            applied = MigrationRecorder(connection).applied_migrations()
    except DatabaseError:
        return ""

    unknown = sorted(f"{app} {name}" for app, name in applied if not _is_known(app, name))
    if not unknown:
        return ""

    changes = ", ".join(unknown[:3])
    return (
        f"The database of {settings.HOME} was made by a later version of DeepExtension (it has the "
        f"changes {changes}, which this version does not know). Nothing was changed. Use that "
        "version or a later one, or another DEEPEXTENSION_HOME."
    )


def _is_known(app: str, name: str) -> bool:
    """Whether there is such a migration. Only our own apps are checked: other packages may have
    merged theirs since they were applied."""
    if app not in apps.app_configs:
        return True

    folder = Path(apps.get_app_config(app).path)
    if settings.BASE_DIR not in folder.parents or "site-packages" in folder.parts:
        return True

    return (folder / "migrations" / f"{name}.py").is_file()
