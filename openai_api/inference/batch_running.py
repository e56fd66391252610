"""Answering a batch, in a background worker.

What is answered is written down at once, so that a batch which is begun again asks nothing
twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson
from django.db import Error
from django.utils import timezone

from core.errors import UserError
from core.text import storable
from core.web.in_thread import in_thread
from jobs.kinds import NotNow
from jobs.progress import progress_report
from openai_api.errors import ApiProblem, problem_of
from openai_api.identifiers import model_find
from openai_api.inference.answers import Asking, answer_whole, broken_off, problem_of_answer
from openai_api.inference.batch_ends import (
    Written,
    batch_end,
    batch_error,
    batch_move,
    counts_store,
    lines_of,
)
from openai_api.inference.endpoints import RESPONSES, Ask, ask_of
from openai_api.inference.models import Batch
from openai_api.models import File
from serving.answering import AnswerProblem, loaded_context
from serving.leases import sessions_close
from serving.targets import Placement

MOST_REQUESTS = 50_000
MOST_ERRORS = 100
AT_ONCE = 4
# Seconds between tries while no model server can be had.
PAUSES = (1, 2, 4, 8, 15, 30)
# Until it looks again whether a train still has the device.
BUSY_SECONDS = 30
WRITE_EVERY = 1.0
EXPIRED = "Its 24 hours are over."

Status = Batch.Status

logger = logging.getLogger("deepextension.openai")


class Stopped(Exception):
    """The batch is gone or cancelled, or its person's account is closed."""


def batch_run(pk: int) -> str:
    """Returns why it failed, or nothing. Raises NotNow while a train has the device."""
    batch = Batch.objects.select_related("owner").filter(pk=pk).first()
    if batch is None or batch.ended:
        return ""
    if timezone.now() > batch.expires_at:
        batch_end(batch, Status.EXPIRED)
        return EXPIRED

    file = File.objects.filter(public_id=batch.input_file_id, user=batch.owner).first()
    errors = _errors_of(batch, file)
    if errors or file is None:
        # What was answered before the file went stays.
        batch_end(batch, Status.FAILED, errors=errors)
        return str(errors[0]["message"])

    batch_move(batch, (Status.VALIDATING,), Status.IN_PROGRESS, in_progress_at=timezone.now())
    try:
        asyncio.run(Run(batch, file.path).work())
    except Stopped as stop:
        if Batch.objects.filter(pk=pk).exists():
            batch_end(batch, Status.CANCELLED)
        return str(stop)

    batch_move(batch, (Status.IN_PROGRESS,), Status.FINALIZING, finalizing_at=timezone.now())
    batch_end(batch, Status.COMPLETED)
    return ""


def _errors_of(batch: Batch, file: File | None) -> list[dict[str, Any]]:
    """What is wrong with the file of requests; of one that is good the number is stored."""
    if file is None or not file.path.is_file():
        return [
            batch_error("file_not_found", "The file of requests is gone.", param="input_file_id")
        ]

    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    total, model = 0, ""

    for total, line in enumerate(lines_of(file.path), 1):
        request, error = _request_of(line, batch.endpoint)
        if error is None and request["custom_id"] in seen:
            error = batch_error(
                "duplicate_custom_id", "This custom_id was there before.", "custom_id"
            )
        if error is not None:
            errors.append(error | {"line": total})
            if len(errors) == MOST_ERRORS:
                break
            continue

        seen.add(request["custom_id"])
        model = model or str(request["body"].get("model") or "")
        if total > MOST_REQUESTS:
            text = f"A batch has at most {MOST_REQUESTS:,} requests."
            return [batch_error("too_many_tasks", text)]

    if not total:
        return [batch_error("empty_file", "The file has no requests.")]

    Batch.objects.filter(pk=batch.pk).update(total=total, model=storable(model[:200]))
    return errors


def _request_of(line: bytes, endpoint: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(the request, what is wrong with it)."""
    try:
        # Numbers beyond all bounds and halves of characters are no JSON to it.
        request = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}, batch_error("invalid_json_line", "This line is no JSON.")

    if not isinstance(request, dict):
        return {}, batch_error("invalid_json_line", "This line is no JSON object.")
    if not isinstance(request.get("custom_id"), str) or not request["custom_id"]:
        return {}, batch_error("missing_required_parameter", "custom_id is missing.", "custom_id")
    if request.get("method") != "POST":
        return {}, batch_error("invalid_method", "method is POST.", "method")
    if request.get("url") != endpoint:
        return {}, batch_error("invalid_url", f"url is {endpoint}, as the batch's endpoint.", "url")
    if not isinstance(request.get("body"), dict):
        return {}, batch_error("missing_required_parameter", "body is an object.", "body")

    return request, None


class Run:
    """One attempt at a batch."""

    def __init__(self, batch: Batch, requests: Path) -> None:
        self.batch = batch
        self.requests = requests
        self.written = Written(batch)
        # Why it is put off: then no more is asked, and what is being answered is waited for.
        self.busy: AnswerProblem | None = None

    async def work(self) -> None:
        """Raises AnswerProblem where no model server is to be had for long, NotNow while a train has
        the device, and Stopped."""
        self.written.read()
        await self.show()
        rows = (orjson.loads(line) for line in lines_of(self.requests))
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
        if self.busy is not None:
            raise NotNow(self.busy.message, seconds=BUSY_SECONDS)

    async def ask_all(self, waiting: Iterator[dict[str, Any]], stream: IO[bytes]) -> None:
        while self.busy is None and (row := next(waiting, None)) is not None:
            try:
                status, body = await self.ask(row["body"])
            except AnswerProblem as problem:
                if problem.code != "device_busy":
                    raise

                self.busy = problem
                return

            self.written.add(stream, row["custom_id"], status, body)

    async def ask(self, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, body). Raises AnswerProblem and Stopped; whatever else happens is this request's
        own failure, and not that of the batch."""
        try:
            ask, placement = await in_thread(self.prepare, sent)
            body = await self.answered(ask, placement)
            return 200, body if ask.shape is None else await ask.shape(body)
        except ApiProblem as problem:
            return problem.status, problem.body
        except UserError as error:
            refused = problem_of(error)
            return refused.status, refused.body
        except (AnswerProblem, Stopped, Error):
            # The database may be there again at the next attempt.
            raise
        except Exception:
            logger.exception("a request of %s could not be answered", self.batch)
            return 500, broken_off().body

    def prepare(self, sent: dict[str, Any]) -> tuple[Ask, Placement]:
        """Asks the database: rights may have changed since the batch began. Raises Stopped."""
        batch = Batch.objects.select_related("owner").filter(pk=self.batch.pk).first()
        if batch is None or batch.status not in Batch.OPEN:
            raise Stopped("The batch was cancelled.")
        if not batch.owner.is_active:
            raise Stopped("The account was closed.")

        given = {**sent, "stream": False}
        if batch.endpoint == RESPONSES and given.get("store") is None:
            # The answers are in a file: nobody goes on from thousands of them.
            given["store"] = False

        ask = ask_of(batch.endpoint, given, batch.owner)
        return ask, model_find(ask.question.model, batch.owner).placement

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
                    # A train has it, for hours perhaps.
                    raise
                if tries == len(PAUSES):
                    # Where the gateway is away this raises. Else it is this request that ends
                    # model servers.
                    await loaded_context(placement)
                    raise problem_of_answer(problem) from problem

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
