"""What the background workers call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from jobs.models import Job

MEMORY_BYTES = 4 << 30


def import_model(pk: int) -> str:
    """Returns why the model cannot be used, or nothing."""
    from core.limits import process_limit
    from models_app.importing import model_import
    from models_app.models import BaseModel

    # What it reads itself: JSON and the headers of weights. Programs have limits of their own.
    process_limit(memory_bytes=MEMORY_BYTES)
    model_import(pk)
    failed = BaseModel.objects.filter(pk=pk, status=BaseModel.Status.FAILED)
    return failed.values_list("error", flat=True).first() or ""


def import_ended(pk: int, *, reason: str, limit_seconds: float) -> None:
    from models_app.services import import_ended

    import_ended(pk, reason, limit_seconds)


def import_addresses(jobs: Sequence[Job], reader: User) -> dict[int, str]:
    from jobs.kinds import subjects_of
    from models_app.models import BaseModel

    ids = subjects_of(jobs)
    models = BaseModel.objects.visible_to(reader).only("pk").in_bulk(list(ids.values()))
    return {number: models[pk].get_absolute_url() for number, pk in ids.items() if pk in models}


def import_keys(row: Any) -> list[str]:
    from models_app.models import BaseModel
    from models_app.services import job_key

    return [job_key(row)] if isinstance(row, BaseModel) else []
