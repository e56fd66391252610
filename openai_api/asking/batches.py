"""Batches: a file of requests, answered by a background worker that asks as every other client does,
after all others.

What is answered is written down at once, so that a batch which is begun again asks nothing
twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from core.store import openai_folder
from core.web.in_thread import in_thread
from jobs.adding import job_add
from jobs.kinds import CANCELLED, NORMAL_SECONDS, TOO_LONG
from jobs.progress import progress_report
from jobs.services import job_cancel
from openai_api.asking.answers import Asking, answer_whole, problem_of_answer
from openai_api.asking.asks import ENDPOINTS, Ask, ask_of
from openai_api.asking.models import Batch
from openai_api.errors import ApiProblem, missing
from openai_api.identifiers import model_find, new_id
from openai_api.models import File
from serving.answering import AnswerProblem
from serving.leases import sessions_close
from serving.targets import Placement

WINDOW = "24h"
MOST_REQUESTS = 50_000
MOST_ERRORS = 100
AT_ONCE = 4
# Seconds between tries while no model server can be had.
PAUSES = (1, 2, 4, 8, 15, 30)
BUSY_PAUSE = 10
WRITE_EVERY = 1.0

Status = Batch.Status


# Creating and cancelling


def batch_key(pk: int) -> str:
    return f"batch-{pk}"


def batch_create(*, owner: User, sent: Mapping[str, Any], file: File) -> Batch:
    """Raises ApiProblem by the name of the field. file: the one that `input_file_id` names."""
    endpoint, metadata = sent.get("endpoint"), sent.get("metadata")
    if endpoint not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        raise ApiProblem(
            f"Invalid value for 'endpoint'. Supported values are: {known}.", param="endpoint"
        )
    if sent.get("completion_window") != WINDOW:
        raise ApiProblem(f"'completion_window' is {WINDOW}.", param="completion_window")
    if metadata is not None and not isinstance(metadata, dict):
        raise ApiProblem("'metadata' is an object of texts.", param="metadata")
    if file.purpose != File.Purpose.BATCH:
        raise ApiProblem(
            f"The file {file.public_id} has the purpose '{file.purpose}'; upload it with 'batch'.",
            param="input_file_id",
            code="invalid_file",
        )

    with transaction.atomic():
        batch = Batch.objects.create(
            owner=owner,
            endpoint=endpoint,
            input_file_id=file.public_id,
            completion_window=WINDOW,
            metadata=metadata,
            expires_at=timezone.now() + timedelta(hours=24),
        )
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

    _move(batch, Batch.OPEN, Status.CANCELLING, cancelling_at=timezone.now())
    if not job_cancel(batch_key(batch.pk)):
        batch_end(batch, Status.CANCELLED)

    batch.refresh_from_db()
    return batch


def _move(batch: Batch, before: tuple[Status, ...], to: Status, **values: Any) -> bool:
    """Whether it stood at one of `before`, and is at `to` now."""
    rows = Batch.objects.filter(pk=batch.pk, status__in=before)
    return rows.update(status=to, **values) == 1


# In the worker


def batch_run(pk: int) -> str:
    """Returns why it failed, or nothing."""
    batch = Batch.objects.select_related("owner").filter(pk=pk).first()
    if batch is None or batch.ended:
        return ""

    file = File.objects.filter(public_id=batch.input_file_id, user=batch.owner).first()
    errors = _errors_of(batch, file)
    if errors or file is None:
        Batch.objects.filter(pk=pk).update(errors=errors)
        _move(batch, Batch.OPEN, Status.FAILED, failed_at=timezone.now())
        return str(errors[0]["message"])

    _move(batch, (Status.VALIDATING,), Status.IN_PROGRESS, in_progress_at=timezone.now())
    asyncio.run(Run(batch, file.path).work())

    _move(batch, (Status.IN_PROGRESS,), Status.FINALIZING, finalizing_at=timezone.now())
    batch_end(batch, Status.COMPLETED)
    return ""


def _errors_of(batch: Batch, file: File | None) -> list[dict[str, Any]]:
    """What is wrong with the file of requests; of one that is good the number is stored."""
    if file is None or not file.path.is_file():
        return [_error("file_not_found", "The file of requests is gone.", param="input_file_id")]

    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    total, model = 0, ""

    for total, line in enumerate(_lines(file.path), 1):
        request, error = _request_of(line, batch.endpoint)
        if error is None and request["custom_id"] in seen:
            error = _error("duplicate_custom_id", "This custom_id was there before.", "custom_id")
        if error is not None:
            errors.append(error | {"line": total})
            if len(errors) == MOST_ERRORS:
                break
            continue

        seen.add(request["custom_id"])
        model = model or str(request["body"].get("model") or "")
        if total > MOST_REQUESTS:
            text = f"A batch has at most {MOST_REQUESTS:,} requests."
            return [_error("too_many_tasks", text)]

    if not total:
        return [_error("empty_file", "The file has no requests.")]

    Batch.objects.filter(pk=batch.pk).update(total=total, model=model[:200])
    return errors


def _error(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "line": None}


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield line


def _request_of(line: bytes, endpoint: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(the request, what is wrong with it)."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {}, _error("invalid_json_line", "This line is no JSON.")

    if not isinstance(request, dict):
        return {}, _error("invalid_json_line", "This line is no JSON object.")
    if not isinstance(request.get("custom_id"), str) or not request["custom_id"]:
        return {}, _error("missing_required_parameter", "custom_id is missing.", "custom_id")
    if request.get("method") != "POST":
        return {}, _error("invalid_method", "method is POST.", "method")
    if request.get("url") != endpoint:
        return {}, _error("invalid_url", f"url is {endpoint}, as the batch's endpoint.", "url")
    if not isinstance(request.get("body"), dict):
        return {}, _error("missing_required_parameter", "body is an object.", "body")

    return request, None


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


class Run:
    """One attempt at a batch."""

    def __init__(self, batch: Batch, requests: Path) -> None:
        self.batch = batch
        self.requests = requests
        self.written = Written(batch)

    async def work(self) -> None:
        """Raises AnswerProblem where no model server is to be had for long."""
        self.written.read()
        await self.show()
        rows = (json.loads(line) for line in _lines(self.requests))
        waiting = (row for row in rows if row["custom_id"] not in self.written.done)

        shown = asyncio.ensure_future(self.keep_showing())
        try:
            with self.written.path.open("ab") as stream:
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(self.ask_all(waiting, stream))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            shown.cancel()
            await sessions_close()

        await self.show()

    async def ask_all(self, waiting: Iterator[dict[str, Any]], stream: IO[bytes]) -> None:
        for row in waiting:
            status, body = await self.ask(row["body"])
            self.written.add(stream, row["custom_id"], status, body)

    async def ask(self, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, body). Raises AnswerProblem."""
        try:
            ask, placement = await in_thread(self.prepare, sent)
            body = await self.answered(ask, placement)
            return 200, body if ask.shape is None else await ask.shape(body)
        except ApiProblem as problem:
            return problem.status, problem.body

    def prepare(self, sent: dict[str, Any]) -> tuple[Ask, Placement]:
        """Asks the database: rights may have changed since the batch began."""
        ask = ask_of(self.batch.endpoint, {**sent, "stream": False}, self.batch.owner)
        return ask, model_find(ask.question.model, self.batch.owner).placement

    async def answered(self, ask: Ask, placement: Placement) -> dict[str, Any]:
        asking = Asking(placement, ask.path, ask.question)
        tries = 0
        while True:
            try:
                return await answer_whole(asking, background=True)
            except AnswerProblem as problem:
                if problem.status not in (429, 503):
                    raise problem_of_answer(problem) from problem
                if problem.code == "device_busy":
                    # A train has the device, for hours perhaps.
                    await asyncio.sleep(BUSY_PAUSE)
                    continue
                if tries == len(PAUSES):
                    raise

                await asyncio.sleep(PAUSES[tries])
                tries += 1

    async def keep_showing(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY)
            await self.show()

    async def show(self) -> None:
        await in_thread(self.write_counts)

    def write_counts(self) -> None:
        written = self.written
        counts_store(self.batch, written)
        total = Batch.objects.values_list("total", flat=True).filter(pk=self.batch.pk).first() or 1
        progress_report("Asking", len(written.done) / total)


def counts_store(batch: Batch, written: Written) -> None:
    Batch.objects.filter(pk=batch.pk).update(
        completed=written.completed,
        failed=written.failed,
        tokens_in=written.tokens_in,
        tokens_out=written.tokens_out,
    )


# Ending


def batch_ended_early(pk: int, reason: str) -> None:
    """Its job was stopped, took too long, or broke off again and again. What is answered stays."""
    batch = Batch.objects.select_related("owner").filter(pk=pk).first()
    if batch is None or batch.ended:
        return

    if reason == CANCELLED:
        batch_end(batch, Status.CANCELLED)
    elif reason == TOO_LONG:
        batch_end(batch, Status.EXPIRED)
    else:
        text = "The models could not be asked. The job's log says more."
        Batch.objects.filter(pk=pk).update(errors=[_error("server_error", text)])
        batch_end(batch, Status.FAILED)


def batch_end(batch: Batch, status: Status) -> None:
    """Make files of what is answered. May be repeated."""
    written = Written(batch)
    written.read()
    counts_store(batch, written)

    with transaction.atomic():
        files = _files_make(batch, written)
        ended = {f"{status}_at": timezone.now()} | files
        if not _move(batch, (*Batch.OPEN, Status.CANCELLING), status, **ended):
            transaction.set_rollback(True)

    shutil.rmtree(work_folder(batch), ignore_errors=True)


def _files_make(batch: Batch, written: Written) -> dict[str, str]:
    """{"output_file_id", "error_file_id"}, "" for one that would be empty."""
    names = {"output_file_id": "output", "error_file_id": "error"}
    parts = {name: written.path.with_name(f"{name}.jsonl") for name in names}

    with (
        parts["output_file_id"].open("wb") as output,
        parts["error_file_id"].open("wb") as errors,
    ):
        for line in _lines(written.path) if written.path.exists() else ():
            good = json.loads(line)["response"]["status_code"] == 200
            (output if good else errors).write(line)

    return {
        name: _file_make(batch, path, f"{batch.public_id}_{names[name]}.jsonl")
        for name, path in parts.items()
    }


def _file_make(batch: Batch, path: Path, name: str) -> str:
    size = path.stat().st_size
    if not size:
        return ""

    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()

    file = File(
        public_id=new_id("file-"),
        user=batch.owner,
        purpose=File.Purpose.BATCH_OUTPUT,
        file_name=name,
        size_bytes=size,
        sha256=digest,
    )
    file.own_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.replace(file.own_path)
    file.save()

    return file.public_id


def batch_folders_prune() -> None:
    """Of batches that have ended, or went with their person."""
    folder = openai_folder() / "batches"
    if not folder.is_dir():
        return

    names = {path.name for path in folder.iterdir()}
    open_now = Batch.objects.filter(
        public_id__in=names, status__in=(*Batch.OPEN, Status.CANCELLING)
    )
    for name in names - set(open_now.values_list("public_id", flat=True)):
        shutil.rmtree(folder / name, ignore_errors=True)
