"""Batches: a file of requests, answered by a background worker that asks as every other client does,
after all others (batch_running)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from core.text import storable
from jobs.adding import job_add
from jobs.kinds import CANCELLED, NORMAL_SECONDS
from jobs.services import job_cancel
from openai_api.errors import ApiProblem, missing
from openai_api.idempotency import SENT_AGAIN_SECONDS, Retry, same_body_check
from openai_api.inference.batch_ends import NOT_ENDED, batch_ended_early, batch_key, batch_move
from openai_api.inference.endpoints import ENDPOINTS
from openai_api.inference.fields import mapping_of_texts
from openai_api.inference.models import Batch
from openai_api.models import File

WINDOW = "24h"

Status = Batch.Status


def batch_create(
    *, owner: User, sent: Mapping[str, Any], file: File, retry: Retry | None = None
) -> Batch:
    """A batch that waits for its worker, or the one that the same request has made. Raises
    ApiProblem by the name of the field. file: the one that `input_file_id` names."""
    retry = retry or Retry()
    batch = _checked(owner, sent, file, retry.key)

    with transaction.atomic():
        # Of two requests at once the second one sees what the first one made.
        get_user_model().objects.select_for_update().get(pk=owner.pk)
        earlier = _sent_again(batch, retry)
        if earlier is not None:
            return earlier

        batch.save()
        job_add(
            "batch",
            batch.pk,
            key=batch_key(batch.pk),
            name=file.file_name,
            owner_id=owner.pk,
            # It may take hours, and nobody sits before it.
            expected_seconds=NORMAL_SECONDS + 1,
        )

    return batch


def _checked(owner: User, sent: Mapping[str, Any], file: File, key: str) -> Batch:
    """Not saved yet."""
    endpoint, metadata = sent.get("endpoint"), sent.get("metadata")
    if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        raise ApiProblem(
            f"Invalid value for 'endpoint'. Supported values are: {known}.", param="endpoint"
        )
    if sent.get("completion_window") != WINDOW:
        raise ApiProblem(f"'completion_window' is {WINDOW}.", param="completion_window")
    if metadata is not None:
        mapping_of_texts(metadata, "metadata")
    if file.purpose != File.Purpose.BATCH:
        raise ApiProblem(
            f"The file {file.public_id} has the purpose '{file.purpose}'; upload it with 'batch'.",
            param="input_file_id",
            code="invalid_file",
        )

    return Batch(
        owner=owner,
        endpoint=endpoint,
        input_file_id=file.public_id,
        completion_window=WINDOW,
        metadata=storable(metadata),
        idempotency_key=key,
        expires_at=timezone.now() + timedelta(hours=24),
    )


def _sent_again(batch: Batch, retry: Retry) -> Batch | None:
    """The one that the same request made: that of its key, or of a moment ago where the client says
    that it tries again. Raises ApiProblem for the key of another request."""
    own = Batch.objects.filter(owner=batch.owner)
    if retry.key:
        earlier = own.filter(idempotency_key=retry.key).first()
        if earlier is not None:
            same_body_check(_body_of(earlier), _body_of(batch))
        return earlier

    if not retry.again:
        return None

    since = timezone.now() - timedelta(seconds=SENT_AGAIN_SECONDS)
    recent = own.filter(created_at__gte=since, idempotency_key="", status__in=NOT_ENDED)
    return next((row for row in recent if _body_of(row) == _body_of(batch)), None)


def _body_of(batch: Batch) -> str:
    """All that a request for a batch says."""
    said = (batch.endpoint, batch.input_file_id, batch.completion_window, batch.metadata)
    return json.dumps(said, sort_keys=True)


def batch_of(identity: str, owner: User) -> Batch | None:
    if "\x00" in identity:
        return None

    return Batch.objects.filter(owner=owner, public_id=identity).first()


def batch_find(identity: str, owner: User) -> Batch:
    """Raises ApiProblem (404) where there is none."""
    batch = batch_of(identity, owner)
    if batch is None:
        raise missing("batch", identity)

    return batch


def batch_cancel(batch: Batch) -> Batch:
    """What is answered by then stays. Raises ApiProblem for one that has ended."""
    if batch.ended:
        # No 409, which clients try again.
        raise ApiProblem(
            f"Cannot cancel a batch with status '{batch.status}'.", code="invalid_state"
        )

    _cancel(batch)
    batch.refresh_from_db()
    return batch


def _cancel(batch: Batch) -> None:
    batch_move(batch, Batch.OPEN, Status.CANCELLING, cancelling_at=timezone.now())
    if not job_cancel(batch_key(batch.pk)):
        batch_ended_early(batch.pk, CANCELLED)


def batches_cancel(owner: User) -> None:
    """All of a person whose account is closed."""
    for batch in _open_batches().filter(owner=owner):
        _cancel(batch)


def _open_batches() -> QuerySet[Batch]:
    return Batch.objects.filter(status__in=NOT_ENDED)


# Files that are in use


def file_unused_check(file: File) -> None:
    """Raises ApiProblem for the file of a batch that has not ended."""
    batch = _open_batches().filter(input_file_id=file.public_id).first()
    if batch is not None:
        text = f"The batch {batch.public_id} still reads this file. Cancel it first."
        raise ApiProblem(text, code="file_in_use")


def files_in_use() -> QuerySet[Batch, str]:
    """The ids of the files of batches that have not ended."""
    return _open_batches().values_list("input_file_id", flat=True)
