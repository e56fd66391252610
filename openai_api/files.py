"""Files: those for fine-tuning are datasets, which are checked in the background, and all others are
kept as they came."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.db.models import Prefetch, Q, QuerySet
from django.utils import timezone

from core.errors import UserError
from core.store import openai_folder
from core.text import clean_label, counted
from core.upload import ReceivedFile
from datasets_app.models import Dataset, DatasetProblem
from datasets_app.services import dataset_archive, dataset_create, dataset_delete
from openai_api.errors import ApiProblem, missing, problem_of
from openai_api.idempotency import SENT_AGAIN_SECONDS
from openai_api.identifiers import new_id
from openai_api.inference.batches import files_in_use
from openai_api.models import File, FineTuningJob, Upload

PROBLEMS_SHOWN = 20
SHORTEST_EXPIRY, LONGEST_EXPIRY = 3600, 30 * 24 * 3600

Status = Dataset.Status


def purpose_of(value: Any, *, allowed: tuple[str, ...] = File.SENT) -> str:
    """Raises ApiProblem for what is no purpose of a file that people send."""
    if value in allowed:
        return str(value)

    known = ", ".join(allowed)
    said = f"There is no purpose {str(value)[:80]!r}." if value else "Say what the file is for."
    raise ApiProblem(f"{said} The purposes are: {known}.", param="purpose")


def expiry_of(body: Any, *, prefix: str = "") -> timedelta | None:
    """`expires_after` of a request, as JSON or as fields of a form. Raises ApiProblem."""
    given = body.get("expires_after")
    if given is None and "expires_after[seconds]" in body:
        given = {
            "anchor": body.get("expires_after[anchor]"),
            "seconds": body.get("expires_after[seconds]"),
        }

    if given is None:
        return None
    if not isinstance(given, dict) or given.get("anchor") != "created_at":
        raise ApiProblem('Must be {"anchor": "created_at", "seconds": …}.', param="expires_after")

    seconds = str(given.get("seconds"))
    is_number = seconds.isascii() and seconds.isdigit() and len(seconds) < 10
    if not is_number or not SHORTEST_EXPIRY <= int(seconds) <= LONGEST_EXPIRY:
        text = f"seconds must be from {SHORTEST_EXPIRY:,} to {LONGEST_EXPIRY:,}."
        raise ApiProblem(text, param="expires_after")

    return timedelta(seconds=int(seconds))


def file_create(
    *,
    user: User,
    file: ReceivedFile,
    purpose: str,
    expires_after: timedelta | None = None,
) -> File:
    """Keep a file, or find the one that the same request has made a moment ago. Raises ApiProblem;
    the received file is then gone."""
    name = clean_label(str(file.name or ""), limit=255) or "file"

    try:
        file.write_through()

        with transaction.atomic():
            # Of two requests at once the second one sees what the first one made.
            get_user_model().objects.select_for_update().get(pk=user.pk)
            earlier = _sent_again(user, name, purpose, file, expires_after)
            if earlier is not None:
                return earlier

            now = timezone.now()
            row = File(
                public_id=new_id("file-"),
                user=user,
                purpose=purpose,
                file_name=name,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                created_at=now,
                expires_at=now + expires_after if expires_after else None,
            )
            _keep(row, file)
            row.save()
    except UserError as error:
        raise problem_of(error) from error
    finally:
        file.close()

    return row


def _sent_again(
    user: User, name: str, purpose: str, file: ReceivedFile, expires_after: timedelta | None
) -> File | None:
    since = timezone.now() - timedelta(seconds=SENT_AGAIN_SECONDS)
    same = File.objects.filter(
        user=user, file_name=name, purpose=purpose, sha256=file.sha256, created_at__gte=since
    )
    for row in same.select_related("dataset"):
        if row.expires_after == expires_after:
            return row

    return None


def _keep(row: File, file: ReceivedFile) -> None:
    if row.purpose == File.Purpose.FINE_TUNE:
        row.dataset = dataset_create(owner=row.user, file=file)
        return

    row.own_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.keep_as(row.own_path)


def received_of(value: Any, *, param: str = "file") -> ReceivedFile:
    """The file of a form. Raises ApiProblem where there is none."""
    if isinstance(value, ReceivedFile):
        return value
    if isinstance(value, UploadedFile):
        raise ApiProblem("This file has not arrived whole.", param=param)

    raise ApiProblem("Send a file as multipart/form-data.", param=param)


def file_find(public_id: str, user: User, *, param: str = "id", for_asking: bool = False) -> File:
    """The file of that id. Raises ApiProblem (404) where `user` has none."""
    file = file_of(public_id, user, for_asking=for_asking)
    if file is None:
        raise missing("File", public_id, param=param)

    return file


def file_of(public_id: str, user: User, *, for_asking: bool = False) -> File | None:
    if "\x00" in public_id:
        return None

    return files_of(user, for_asking=for_asking).filter(public_id=public_id).first()


def files_of(user: User, *, for_asking: bool = False) -> QuerySet[File]:
    """Those of `user`. A dataset or a train that was handed over takes its file along.

    for_asking: those of batches alone, for keys that see nothing else."""
    if for_asking:
        return File.objects.filter(user=user, purpose__in=File.OF_BATCHES)

    own = Q(user=user)
    kept = own & Q(dataset=None, results_of=None)
    datasets = own & (Q(dataset__owner=user) | Q(dataset__shared=True))
    results = Q(results_of__train__owner=user)

    return File.objects.filter(kept | datasets | results).select_related("dataset")


def with_problems(files: QuerySet[File]) -> QuerySet[File]:
    """With what `problems_text` tells of each, for lists."""
    first = DatasetProblem.objects.order_by("line", "id")[:PROBLEMS_SHOWN]
    return files.prefetch_related(
        Prefetch("dataset__problems", queryset=first, to_attr="first_problems")
    )


def file_body(file: File) -> dict[str, Any]:
    """The file as the API answers it. "uploaded": it is being checked."""
    status, details = "processed", ""
    if file.dataset is not None:
        status, details = _status_of(file.dataset)

    return {
        "id": file.public_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
        "filename": file.file_name,
        "purpose": file.purpose,
        "status": status,
        "status_details": details or None,
    }


def _status_of(dataset: Dataset) -> tuple[str, str]:
    match dataset.status:
        case Status.CHECKING:
            return "uploaded", ""
        case Status.READY:
            return "processed", problems_text(dataset)
        case _:
            return "error", f"{dataset.error} {problems_text(dataset)}".strip()


def problems_text(dataset: Dataset) -> str:
    """Which rows cannot be learned from, by line; "" where all can."""
    if not dataset.problem_count:
        return ""

    problems = getattr(dataset, "first_problems", None)
    if problems is None:
        problems = dataset.problems.all()[:PROBLEMS_SHOWN]

    unit = "line" if dataset.counts_lines else "row"
    lines = [
        f"{unit} {problem.line:,}{f' ({problem.field})' if problem.field else ''}: {problem.reason}"
        for problem in problems
    ]
    more = dataset.problem_count - len(lines)
    if more > 0:
        lines.append(f"and {more:,} more")

    rows = counted(dataset.row_count, "row")
    return f"{dataset.problem_count:,} of {rows} cannot be learned from. {'; '.join(lines)}"


def file_delete(file: File, *, user: User) -> None:
    """Remove a file. A dataset that a train used stays on record, archived. Raises ApiProblem."""
    dataset = file.dataset

    with transaction.atomic():
        file.delete()
        if dataset is not None:
            _dataset_remove(dataset, user)

    # Behind the database: of a file without a row the housekeeping takes care.
    if dataset is None:
        file.own_path.unlink(missing_ok=True)


def _dataset_remove(dataset: Dataset, user: User) -> None:
    if dataset.owner_id != user.pk:
        # It was handed over: the file is only an id of it.
        return

    try:
        with transaction.atomic():
            dataset_delete(dataset=dataset, by=user)
    except UserError:
        dataset_archive(dataset=dataset, by=user)


def files_pass_on(person: User, heir: User | None) -> None:
    """What an account that is removed has sent goes to `heir`, or is deleted with its bytes; what
    is a dataset or a train has gone already."""
    rows = (File, Upload, FineTuningJob)
    if heir is not None:
        for model in rows:
            model._base_manager.filter(user=person).update(user=heir)
        return

    for upload in Upload.objects.filter(user=person):
        shutil.rmtree(upload.folder, ignore_errors=True)
    for file in File.objects.filter(user=person, dataset=None):
        file.own_path.unlink(missing_ok=True)


def files_expire() -> None:
    """Remove files and uploads whose time is over, and what lies in the folders of none."""
    now = timezone.now()
    expired = File.objects.filter(expires_at__lte=now).select_related("dataset", "user")
    for file in expired.exclude(public_id__in=files_in_use()):
        file_delete(file, user=file.user)

    late = Upload.objects.filter(status=Upload.Status.PENDING, expires_at__lte=now)
    for upload in late:
        if upload.end(Upload.Status.EXPIRED):
            shutil.rmtree(upload.folder, ignore_errors=True)

    _leftovers_remove()


def _leftovers_remove() -> None:
    """Files of accounts that are gone. What is young may belong to a row that is not written yet."""
    before = timezone.now().timestamp() - SHORTEST_EXPIRY

    for kind, rows in (("files", File.objects), ("uploads", Upload.objects)):
        folder = openai_folder() / kind
        if not folder.is_dir():
            continue

        old = [path for path in folder.iterdir() if path.stat().st_mtime < before]
        known = set(
            rows.filter(public_id__in=[path.name for path in old]).values_list(
                "public_id", flat=True
            )
        )
        for path in old:
            if path.name in known:
                continue

            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
