"""What the background workers call."""

from __future__ import annotations


def import_model(pk: int) -> None:
    from models_app.importing import model_import

    model_import(pk)


def import_ended(pk: int, *, reason: str, limit_seconds: float) -> None:
    from models_app.services import import_ended

    import_ended(pk, reason, limit_seconds)
