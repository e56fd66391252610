"""What the background workers call."""

from __future__ import annotations

MEMORY_BYTES = 4 << 30


def import_model(pk: int) -> None:
    from core.limits import process_limit
    from models_app.importing import model_import

    # What it reads itself: JSON and the headers of weights. Programs have limits of their own.
    process_limit(memory_bytes=MEMORY_BYTES)
    model_import(pk)


def import_ended(pk: int, *, reason: str, limit_seconds: float) -> None:
    from models_app.services import import_ended

    import_ended(pk, reason, limit_seconds)
