"""Jobs of the chores queue."""

from __future__ import annotations

from models_app.importing import model_import


def import_model(pk: int) -> None:
    model_import(pk)
