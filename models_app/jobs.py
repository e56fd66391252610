"""Jobs of the chores queue."""

from __future__ import annotations

from core.jobs import queue_job
from models_app.importing import model_import


@queue_job
def import_model(pk: int) -> None:
    model_import(pk)
