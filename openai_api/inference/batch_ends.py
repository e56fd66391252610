"""What a batch has answered, and how it ends: its answers become files of its owner's."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any

from django.db import Error, transaction
from django.utils import timezone

from core.store import openai_folder
from jobs.kinds import CANCELLED, TOO_LONG
from jobs.models import Job
from openai_api.identifiers import new_id
from openai_api.inference.models import Batch
from openai_api.models import File

Status = Batch.Status

GIVEN_UP = "The models could not be asked. The job's log says more."
NOT_ENDED = (*Batch.OPEN, Status.CANCELLING)

logger = logging.getLogger("deepextension.openai")


def batch_key(pk: int) -> str:
    """Of its job."""
    return f"batch-{pk}"


def batch_error(
    code: str, message: str, param: str | None = None, line: int | None = None
) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "line": line}


def batch_move(batch: Batch, before: tuple[Status, ...], to: Status, **values: Any) -> bool:
    """Whether it stood at one of `before`, and is at `to` now."""
    rows = Batch.objects.filter(pk=batch.pk, status__in=before)
    return rows.update(status=to, **values) == 1


def lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield line


def work_folder(batch: Batch) -> Path:
    return openai_folder() / "batches" / batch.public_id


class Written:
    """What is answered: a line of JSON for each request, in the order in which answers came."""

    def __init__(self, batch: Batch) -> None:
        self.path = work_folder(batch) / "answers.jsonl"
        self.done: set[str] = set()
        self.completed = self.failed = 0
        self.tokens_in = self.tokens_out = 0

    def read(self) -> None:
        """What an earlier attempt wrote; a line that it did not finish goes."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.path.exists():
            return

        whole = 0
        with self.path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break

                whole += len(line)
                self.count(json.loads(line))

        with self.path.open("r+b") as stream:
            stream.truncate(whole)

    def count(self, row: dict[str, Any]) -> None:
        self.done.add(row["custom_id"])
        body = row["response"]["body"]
        if row["response"]["status_code"] != 200:
            self.failed += 1
            return

        self.completed += 1
        usage = body.get("usage") or {}
        self.tokens_in += usage.get("prompt_tokens", usage.get("input_tokens", 0)) or 0
        self.tokens_out += usage.get("completion_tokens", usage.get("output_tokens", 0)) or 0

    def add(self, stream: IO[bytes], custom_id: str, status: int, body: dict[str, Any]) -> None:
        row = {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": custom_id,
            "response": {
                "status_code": status,
                "request_id": f"req_{uuid.uuid4().hex}",
                "body": body,
            },
            "error": None,
        }
        stream.write(json.dumps(row).encode() + b"\n")
        stream.flush()
        self.count(row)


def counts_store(batch: Batch, written: Written) -> None:
    Batch.objects.filter(pk=batch.pk).update(
        completed=written.completed,
        failed=written.failed,
        tokens_in=written.tokens_in,
        tokens_out=written.tokens_out,
    )


# Ending


def batch_ended_early(pk: int, reason: str) -> None:
    """Its job was stopped, took too long, or broke off again and again. What is answered stays.

    Its files are made behind the transaction that this is in: nobody else could write meanwhile.
    Where that does not come to pass the housekeeping does it."""
    transaction.on_commit(partial(_end_for, pk, reason), robust=True)


def _end_for(pk: int, reason: str) -> None:
    batch = Batch.objects.select_related("owner").filter(pk=pk).first()
    if batch is None or batch.ended:
        return

    if reason == CANCELLED or batch.status == Status.CANCELLING:
        batch_end(batch, Status.CANCELLED)
    elif reason == TOO_LONG:
        batch_end(batch, Status.EXPIRED)
    else:
        batch_end(batch, Status.FAILED, errors=[batch_error("server_error", GIVEN_UP)])


def batches_settle() -> None:
    """End batches whose jobs have ended without that, since a process was killed in between."""
    for pk in Batch.objects.filter(status__in=NOT_ENDED).values_list("pk", flat=True):
        jobs = Job.objects.filter(key=batch_key(pk)).order_by("-number")
        if jobs.filter(status__in=Job.OPEN).exists():
            continue

        job = jobs.first()
        stopped = job is not None and job.status == Job.Status.STOPPED
        try:
            _end_for(pk, CANCELLED if stopped else job.error_code if job is not None else "")
        except OSError:
            # A full disk, say: later.
            logger.exception("batch %s cannot be ended yet", pk)


def batch_end(batch: Batch, status: Status, *, errors: list[dict[str, Any]] | None = None) -> None:
    """Make files of what is answered. May be repeated, and interrupted anywhere: what was answered
    goes when it is stored that the files are there."""
    written = Written(batch)
    written.read()
    counts_store(batch, written)

    # Before the transaction, since others wait for its end: it may be gigabytes.
    files = _files_make(batch, written)
    ended: dict[str, Any] = {f"{status}_at": timezone.now()}
    ended |= {name: file.public_id for name, file in files.items()}
    if errors:
        ended["errors"] = errors

    is_ended = False
    try:
        with transaction.atomic():
            is_ended = batch_move(batch, NOT_ENDED, status, **ended)
            if is_ended:
                for file in files.values():
                    file.save()
                folder = work_folder(batch)
                transaction.on_commit(partial(shutil.rmtree, folder, ignore_errors=True))
    except Error:
        is_ended = False
        raise
    finally:
        if not is_ended:
            for file in files.values():
                file.own_path.unlink(missing_ok=True)


def _files_make(batch: Batch, written: Written) -> dict[str, File]:
    """{"output_file_id", "error_file_id"}, without one that would be empty: rows that are not saved
    yet, with their bytes."""
    with ExitStack() as opened:
        output = opened.enter_context(_NewFile(batch, "output"))
        errors = opened.enter_context(_NewFile(batch, "error"))
        for line in lines_of(written.path) if written.path.exists() else ():
            good = json.loads(line)["response"]["status_code"] == 200
            (output if good else errors).write(line)

    made = {"output_file_id": output.file, "error_file_id": errors.file}
    for name, file in list(made.items()):
        if not file.size_bytes:
            file.own_path.unlink()
            del made[name]

    return made


class _NewFile:
    """A file of a batch's answers that is being written; what is not written whole goes."""

    def __init__(self, batch: Batch, name: str) -> None:
        self.file = File(
            public_id=new_id("file-"),
            user=batch.owner,
            purpose=File.Purpose.BATCH_OUTPUT,
            file_name=f"{batch.public_id}_{name}.jsonl",
            size_bytes=0,
        )
        self.digest = hashlib.sha256()

    def __enter__(self) -> _NewFile:
        path = self.file.own_path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.stream = path.open("wb")
        return self

    def write(self, line: bytes) -> None:
        self.stream.write(line)
        self.digest.update(line)
        self.file.size_bytes += len(line)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.stream.flush()
            os.fsync(self.stream.fileno())
        finally:
            self.stream.close()
            if kind is not None:
                self.file.own_path.unlink(missing_ok=True)

        self.file.sha256 = self.digest.hexdigest()


def batch_folders_prune() -> None:
    """Of batches that have ended, or went with their person."""
    folder = openai_folder() / "batches"
    if not folder.is_dir():
        return

    names = {path.name for path in folder.iterdir()}
    open_now = Batch.objects.filter(public_id__in=names, status__in=NOT_ENDED)
    for name in names - set(open_now.values_list("public_id", flat=True)):
        shutil.rmtree(folder / name, ignore_errors=True)
