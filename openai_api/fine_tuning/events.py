"""What has happened in a job: messages, and a metrics event for every logged step, the newest
first.

An event's id holds its moment, so that pages go on where they ended while new events come, and after
a resume has deleted some. Messages are few and made of what the train has kept; metrics may be a
million and are asked for page by page."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import QuerySet
from rest_framework.request import Request

from openai_api.errors import ApiProblem
from openai_api.fine_tuning.jobs import status_of
from openai_api.fine_tuning.objects import fine_tuned_model
from openai_api.fine_tuning.results import named
from openai_api.models import FineTuningJob
from openai_api.pages import limit_of, list_body
from training.models import MetricRow, TrainRun
from training.train.phases import FIRST_PHASE

# The order of what has happened at the same microsecond.
CREATED, VALIDATING, QUEUED, PHASE, METRICS, CHECKPOINT, WARNING, ENDED, MODEL = range(9)
_ID = re.compile(r"ftevent-([0-9a-f]{14})([0-8])([0-9a-f]{1,16})")
# Metrics of about the same moment as a message that a page ends with.
NEIGHBOURS = 50


class Key(NamedTuple):
    """moment: Unix microseconds."""

    moment: int
    rank: int
    number: int

    @property
    def id(self) -> str:
        return f"ftevent-{self.moment:014x}{self.rank}{self.number:x}"


@dataclass(frozen=True)
class Event:
    key: Key
    message: str
    level: str = "info"
    data: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        return {
            "id": self.key.id,
            "object": "fine_tuning.job.event",
            "created_at": self.key.moment // 1_000_000,
            "level": self.level,
            "message": self.message,
            "type": "metrics" if self.key.rank == METRICS else "message",
            "data": self.data or {},
        }


def events_page(request: Request, job: FineTuningJob) -> dict[str, Any]:
    """Raises ApiProblem for an `after` that is no event's id."""
    limit = limit_of(request, default=20, most=1000)
    after = _key_of(request.query_params.get("after", ""))

    events = [event for event in messages_of(job) if after is None or event.key < after]
    if job.train is not None:
        events += metrics_of(job.train, after, limit + 1)

    events.sort(key=lambda event: event.key, reverse=True)
    bodies = [event.body() for event in events[:limit]]
    return list_body(bodies, has_more=len(events) > limit)


def _key_of(text: str) -> Key | None:
    if not text:
        return None

    match = _ID.fullmatch(text)
    if match is None:
        raise ApiProblem(f"There is no event {text[:80]!r} to go on after.", param="after")

    return Key(int(match[1], 16), int(match[2]), int(match[3], 16))


def metrics_of(run: TrainRun, after: Key | None, count: int) -> list[Event]:
    """The newest `count` metrics before `after`."""
    rows: QuerySet[MetricRow] = MetricRow.objects.filter(run=run).order_by("-seq")

    if after is None:
        return [_metrics_event(run, row) for row in rows[:count]]
    if after.rank == METRICS:
        # By number, which the database has an index of.
        return [_metrics_event(run, row) for row in rows.filter(seq__lt=after.number)[:count]]

    until = (after.moment + 1) / 1_000_000
    found = [_metrics_event(run, row) for row in rows.filter(time__lte=until)[: count + NEIGHBOURS]]
    return [event for event in found if event.key < after][:count]


def _metrics_event(run: TrainRun, row: MetricRow) -> Event:
    values = named(row.split, row.values)
    what = "validation" if row.split == "eval" else "training"
    name = run.objective.evaluation if row.split == "eval" else run.objective.train
    value = row.values.get(name)
    said = f"{what} {run.objective.title.lower()}={value:.4g}" if value is not None else what
    of = f"/{run.total_steps}" if run.total_steps else ""

    return Event(
        Key(_micro(row.time), METRICS, row.seq),
        f"Step {row.step}{of}: {said}",
        data={"step": row.step, "total_steps": run.total_steps, "epoch": row.epoch} | values,
    )


def messages_of(job: FineTuningJob) -> Iterator[Event]:
    """All messages of a job, in no order."""
    began = job.created_at.timestamp()
    yield _message(began, CREATED, f"Created fine-tuning job: {job.public_id}")
    yield _message(began, VALIDATING, f"Validating training file: {job.training_file}")
    if job.validation_file:
        text = f"Validating validation file: {job.validation_file}"
        yield _message(began, VALIDATING, text, number=1)

    run = job.train
    if run is None:
        status = status_of(job)
        if status == "failed":
            yield _message(began, ENDED, job.error["message"], level="error")
        elif status == "cancelled":
            yield _message(began, ENDED, "The job was cancelled before it began")
        return

    queued = run.created_at.timestamp()
    yield _message(queued, QUEUED, "Files validated, moving job to queued state")
    yield from _phases(run)
    yield from _checkpoints(run)
    yield from _warnings(run)
    yield from _end(job, run)


def _phases(run: TrainRun) -> Iterator[Event]:
    attempts = 0
    for name, time in run.facts.get("phases") or []:
        if name == FIRST_PHASE:
            attempts += 1
            text = "Fine-tuning job started" if attempts == 1 else "Fine-tuning job resumed"
            yield _message(float(time), PHASE, text)


def _checkpoints(run: TrainRun) -> Iterator[Event]:
    for step, time in run.checkpoints.values_list("step", "time"):
        text = f"Checkpoint created at step {step}"
        yield _message(time, CHECKPOINT, text, number=step, data={"step": step})


def _warnings(run: TrainRun) -> Iterator[Event]:
    for warning in run.warnings:
        text = str(warning.get("message", ""))
        number = zlib.crc32(f"{warning.get('code')}{text}".encode())
        yield _message(float(warning.get("time") or 0), WARNING, text, level="warn", number=number)


def _end(job: FineTuningJob, run: TrainRun) -> Iterator[Event]:
    if not run.ended or run.finished_at is None:
        return

    at = run.finished_at.timestamp()
    match status_of(job):
        case "succeeded":
            yield _message(at, ENDED, "The job has successfully completed")
            if name := fine_tuned_model(job):
                yield _message(at, MODEL, f"New fine-tuned model created: {name}")
        case "failed":
            yield _message(at, ENDED, f"{run.error} {run.error_advice}".strip(), level="error")
        case "cancelled":
            yield _message(at, ENDED, "The job was cancelled")
        case _:
            yield _message(at, ENDED, "The job is paused")


def _message(
    time: float,
    rank: int,
    text: str,
    *,
    level: str = "info",
    number: int = 0,
    data: dict[str, Any] | None = None,
) -> Event:
    return Event(Key(_micro(time), rank, number), text, level, data)


def _micro(time: float) -> int:
    return max(0, round(time * 1_000_000))
