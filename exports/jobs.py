"""What the background workers call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from jobs.models import Job

# What it reads itself is small. Programs have limits of their own.
MEMORY_BYTES = 2 << 30


def make_export(pk: int) -> str:
    """Returns why there is no export, or nothing."""
    from core.limits import process_limit
    from exports.making import export_make
    from exports.models import Export

    process_limit(memory_bytes=MEMORY_BYTES)
    export_make(pk)
    export = Export.objects.filter(pk=pk).first()
    if export is None:
        return ""

    return export.error or export.delivery_error


def export_ended(pk: int, *, reason: str, limit_seconds: float) -> None:
    from exports.services import export_ended

    export_ended(pk, reason, limit_seconds)


def export_addresses(jobs: Sequence[Job], reader: User) -> dict[int, str]:
    from exports.models import Export
    from jobs.kinds import subjects_of

    ids = subjects_of(jobs)
    exports = Export.objects.visible_to(reader).only("pk").in_bulk(list(ids.values()))
    return {number: exports[pk].get_absolute_url() for number, pk in ids.items() if pk in exports}


def export_keys(row: Any) -> list[str]:
    """A model's exports change hands with it."""
    from exports.services import export_key
    from models_app.models import BaseModel

    if not isinstance(row, BaseModel):
        return []

    return [export_key(pk) for pk in row.exports.values_list("pk", flat=True)]
