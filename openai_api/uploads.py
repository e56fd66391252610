"""Uploads: a file in parts, which are put together at the end."""

from __future__ import annotations

import hashlib
import shutil
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from core.store import require_disk
from core.text import clean_label
from core.upload import ReceivedFile, too_large
from openai_api.errors import ApiProblem, missing
from openai_api.files import expiry_of, file_body, file_create, purpose_of
from openai_api.identifiers import new_id
from openai_api.models import Upload, UploadPart

LIFETIME = timedelta(hours=1)
# A part is a file on disk until the end, and a client may begin many.
MOST_PARTS = 10_000

Status = Upload.Status


def upload_create(*, user: User, body: dict[str, Any]) -> Upload:
    """Raises ApiProblem."""
    name = body.get("filename")
    if not isinstance(name, str) or not clean_label(name, limit=255):
        raise ApiProblem("Give the name of the file.", param="filename")

    size = body.get("bytes")
    if type(size) is not int or size < 1:
        raise ApiProblem("Give the size of the file in bytes.", param="bytes")
    if size > settings.UPLOAD_LIMIT_BYTES:
        raise ApiProblem(too_large(), param="bytes", status=413, code="too_large")

    purpose = purpose_of(body.get("purpose"))
    # Refused here, and not when most of it has come.
    expires_after = expiry_of(body)
    require_disk(2 * size)

    return Upload.objects.create(
        public_id=new_id("upload_"),
        user=user,
        purpose=purpose,
        file_name=clean_label(name, limit=255),
        size_bytes=size,
        expires_at=timezone.now() + LIFETIME,
        expires_after=expires_after,
    )


def upload_find(public_id: str, user: User) -> Upload:
    """Raises ApiProblem (404)."""
    uploads = Upload.objects.filter(user=user).select_related("file__dataset")
    upload = uploads.filter(public_id=public_id).first() if "\x00" not in public_id else None
    if upload is None:
        raise missing("Upload", public_id)

    return upload


def part_add(upload: Upload, data: ReceivedFile) -> UploadPart:
    """Keep a part. Raises ApiProblem; the part is then gone."""
    try:
        _pending_check(upload)
        there = sum(upload.parts.values_list("size_bytes", flat=True))
        if there + data.size_bytes > 2 * upload.size_bytes or upload.parts.count() >= MOST_PARTS:
            text = f"More has come than the {upload.size_bytes:,} bytes that were announced."
            raise ApiProblem(text, param="data")

        part = UploadPart(public_id=new_id("part_"), upload=upload, size_bytes=data.size_bytes)
        upload.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        data.keep_as(part.path)
        part.save()
    finally:
        data.close()

    if not Upload.objects.filter(pk=upload.pk, status=Status.PENDING).exists():
        # It has ended while this part was kept, and its folder is gone but for this.
        shutil.rmtree(upload.folder, ignore_errors=True)
        upload.refresh_from_db()
        _pending_check(upload)

    return part


def upload_complete(upload: Upload, body: dict[str, Any]) -> Upload:
    """Put the parts together, in the order of `part_ids`. One that is complete already is answered
    as it is. Raises ApiProblem."""
    if upload.status == Status.COMPLETED:
        return upload

    _pending_check(upload)
    parts = _parts_of(upload, body.get("part_ids"))
    size = sum(part.size_bytes for part in parts)
    if size != upload.size_bytes:
        text = f"The parts have {size:,} bytes, and {upload.size_bytes:,} were announced."
        raise ApiProblem(text, param="part_ids")

    md5 = hashlib.md5(usedforsecurity=False)
    try:
        file = ReceivedFile.joined([part.path for part in parts], name=upload.file_name, also=md5)
    except FileNotFoundError:
        return _ended_meanwhile(upload)

    wanted = body.get("md5")
    if wanted is not None and str(wanted).lower() != md5.hexdigest():
        file.close()
        text = f"The parts make another file: its md5 is {md5.hexdigest()}."
        raise ApiProblem(text, param="md5")

    try:
        # Before the transaction, which everybody else waits for.
        file.write_through()

        with transaction.atomic():
            # First the status, so that of two requests at once only one makes a file.
            if not upload.end(Status.COMPLETED):
                return _ended_meanwhile(upload)

            row = file_create(
                user=upload.user,
                file=file,
                purpose=upload.purpose,
                expires_after=upload.expires_after,
            )
            Upload.objects.filter(pk=upload.pk).update(file=row)
    finally:
        file.close()

    upload.file = row
    shutil.rmtree(upload.folder, ignore_errors=True)
    return upload


def _ended_meanwhile(upload: Upload) -> Upload:
    """What another request has made of it. Raises ApiProblem where it was not completed."""
    upload.refresh_from_db()
    if upload.status != Status.COMPLETED:
        _pending_check(upload)
        raise ApiProblem("The parts of this upload are gone. Begin a new one.", code="wrong_state")

    return upload


def _parts_of(upload: Upload, ids: Any) -> list[UploadPart]:
    if not isinstance(ids, list) or not ids or not all(isinstance(item, str) for item in ids):
        raise ApiProblem("Give the ids of the parts in their order.", param="part_ids")
    if len(set(ids)) != len(ids):
        raise ApiProblem("A part stands twice in the list.", param="part_ids")

    parts = {part.public_id: part for part in upload.parts.select_related("upload")}
    for public_id in ids:
        if public_id not in parts:
            text = f"There is no part {public_id[:80]!r} of this upload."
            raise ApiProblem(text, param="part_ids")

    return [parts[public_id] for public_id in ids]


def upload_cancel(upload: Upload) -> Upload:
    """Raises ApiProblem for one that has ended in another way."""
    if upload.status == Status.CANCELLED:
        return upload

    _pending_check(upload)
    if upload.end(Status.CANCELLED):
        shutil.rmtree(upload.folder, ignore_errors=True)
        return upload

    upload.refresh_from_db()
    return upload_cancel(upload)


def _pending_check(upload: Upload) -> None:
    if upload.status == Status.PENDING and upload.expires_at <= timezone.now():
        upload.status = Status.EXPIRED

    if upload.status != Status.PENDING:
        raise ApiProblem(f"This upload is {upload.status}. Begin a new one.", code="wrong_state")


def upload_body(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.public_id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": int(upload.created_at.timestamp()),
        "expires_at": int(upload.expires_at.timestamp()),
        "filename": upload.file_name,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": file_body(upload.file) if upload.file is not None else None,
    }


def part_body(part: UploadPart) -> dict[str, Any]:
    return {
        "id": part.public_id,
        "object": "upload.part",
        "created_at": int(part.created_at.timestamp()),
        "upload_id": part.upload.public_id,
    }
