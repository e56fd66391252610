"""Resuming a train that ended early: the same train, its next attempt, from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from core.errors import UserError
from core.ownership import owner_check
from core.store import require_disk
from engine.contract.rundir import (
    SAVE,
    STOP,
    SpecError,
    checkpoint_is_whole,
    checkpoint_step,
    checkpoints,
    folder_size,
    read_spec,
)
from jobs.durations import run_seconds
from jobs.queue import queue_insert
from training.models import TrainRun
from training.train.branching import HASHED_BYTES
from training.train.carrying_on import loaded_model
from training.train.phases import attempt_end
from training.train.plan import disk_bytes
from training.train.remedies import LADDER, OUT_OF_MEMORY
from training.train.spec_paths import spec_write
from training.work.ingest import RESUMED_BY_ITSELF, WARNINGS_KEPT
from training.work.notices import train_notices_create
from training.work.outcome import BAD_CHECKPOINT, CLUSTER_LOST, WORKER_LOST, Outcome
from training.work.queue import workers_notify

logger = logging.getLogger("deepextension.resuming")

Status = TrainRun.Status


def resumable_steps(run: TrainRun) -> list[int]:
    """Steps of complete checkpoints, the newest first. Sizes of their files are compared, their
    contents are not read."""
    if run.status not in (Status.STOPPED, Status.FAILED) or run.method.is_custom:
        return []

    return [
        step
        for step, folder in checkpoints(run.directory)
        if checkpoint_is_whole(folder, hashes=False)
    ]


def resume_obstacle(run: TrainRun) -> str:
    """Why a train cannot be resumed, not even from its beginning, or nothing."""
    if run.status not in (Status.STOPPED, Status.FAILED):
        return "Only a train that was stopped or failed can be resumed."
    if run.method.is_custom:
        return f"{run.method.name} is a custom program, which cannot be resumed. Copy the train."
    if not (base_model := loaded_model(run)).path.is_dir():
        return f"The files of {base_model.name} are gone."

    for dataset in (run.dataset, run.evaluation_dataset):
        if dataset is not None and not dataset.path.is_file():
            return f"The file of {dataset.title} is gone."

    return ""


def train_resume(*, run: TrainRun, by: User, step: int | None = None) -> TrainRun:
    """Queue the train again, to resume after `step` (0: from the beginning), or after its newest
    complete checkpoint. What it reported of later steps is deleted when it starts. Raises
    UserError."""
    owner_check(run, by)

    if obstacle := resume_obstacle(run):
        raise UserError(obstacle, code="wrong_state")

    if step == 0:
        checkpoint = None
        require_disk(disk_bytes(run.base_model, run.parameters))
    else:
        checkpoint = _checkpoint_to_resume(run, step)
        require_disk(2 * folder_size(checkpoint))

    if not _queue_again(run, checkpoint, resumes=0):
        raise UserError("Somebody else has moved this train on. Look again.", code="wrong_state")

    return run


def _checkpoint_to_resume(run: TrainRun, step: int | None) -> Path:
    """The complete checkpoint of `step`, or the newest. Raises UserError where there is none."""
    checkpoint = _whole_checkpoint(run, step, at_most=HASHED_BYTES)
    if checkpoint is not None:
        return checkpoint

    if step is None:
        reason = "It has no whole checkpoint to resume from."
    else:
        reason = f"There is no whole checkpoint of step {step:,}."

    raise UserError({"step": [f"{reason} Start it over from step 0, or copy it."]})


def train_end_or_resume(run: TrainRun, outcome: Outcome) -> bool:
    """Write how the train ended. One that can resume by itself returns to the queue in the same
    transaction, from its newest complete checkpoint or from the beginning where there is none.
    Returns whether this caller ended it."""
    changes: dict[str, Any] | None = None
    checkpoint: Path | None = None

    # Read at most once: its files may be large.
    @cache
    def newest() -> Path | None:
        return _whole_checkpoint(run, None)

    if run.status != Status.STOPPING:
        changes = _auto_resume_changes(run, outcome, newest)
    if changes is not None:
        checkpoint = newest()

    with transaction.atomic():
        won = run.transition(
            outcome.status,
            attempt=run.attempt,
            finished_at=timezone.now(),
            eta_seconds=None,
            eta_at=None,
            eta_basis="",
            phase="",
            **outcome.values,
        )

        if not won:
            return False

        if changes is not None and _queue_again(run, checkpoint, first=True, **changes):
            step = checkpoint_step(checkpoint) if checkpoint is not None else 0
            code = outcome.values["error_code"]
            logger.warning("train %s (%s) resumes after step %s", run.pk, code, step)
            return True

        train_notices_create(run)
        if outcome.status == Status.FINISHED:
            workers_notify(run.followers.filter(status=Status.QUEUED).count())

    return True


def _auto_resume_changes(
    run: TrainRun, outcome: Outcome, newest: Callable[[], Path | None]
) -> dict[str, Any] | None:
    """Changes with which the train resumes by itself; None where it does not. newest: its newest
    complete checkpoint.

    A lost worker or cluster is forgiven DEEPEXTENSION_RESUMES times in a row: the count restarts when a
    person resumes the train, and when an attempt has saved more than it began with. A shutdown of the
    platform is not counted. A checkpoint that was damaged after the platform had chosen it is
    forgiven as well. Where memory ran out and shrinking was asked for, each way to need less is
    tried once."""
    if not _can_auto_resume(run):
        return None

    code = outcome.values.get("error_code", "")

    if code in (WORKER_LOST, *CLUSTER_LOST) and settings.RESUMES > 0:
        in_a_row = 0 if run.resumes and _saved_more(run, newest()) else run.resumes
        if outcome.by_shutdown:
            return {"resumes": in_a_row}
        if in_a_row < settings.RESUMES:
            return {"resumes": in_a_row + 1}
    if code == BAD_CHECKPOINT and _may_pass_over_checkpoint(run):
        return _passing_over_checkpoint(run, outcome)
    if code in OUT_OF_MEMORY and run.parameters.get("on_out_of_memory") == "shrink":
        return _shrinking(run)

    return None


def _saved_more(run: TrainRun, newest: Path | None) -> bool:
    """Whether this attempt saved a checkpoint beyond what it began with."""
    begun_with = read_spec(run.directory).resume_from
    step = checkpoint_step(Path(begun_with)) if begun_with else 0
    return newest is not None and checkpoint_step(newest) > step


def _can_auto_resume(run: TrainRun) -> bool:
    if run.method.is_custom or not loaded_model(run).path.is_dir():
        return False

    try:
        read_spec(run.directory)
    except SpecError:
        # Its folder was removed.
        return False

    return True


def _may_pass_over_checkpoint(run: TrainRun) -> bool:
    """Only a checkpoint that the platform chose. A person can choose another one themselves, and
    there is no older one for the weights that a branch begins with."""
    # Trains from before that was kept were counted each time.
    was_resumed_by_platform = run.resumes > 0 or run.facts.get(RESUMED_BY_ITSELF, False)
    may_resume = was_resumed_by_platform and run.resumes < settings.RESUMES
    return may_resume and bool(read_spec(run.directory).resume_from)


def _passing_over_checkpoint(run: TrainRun, outcome: Outcome) -> dict[str, Any]:
    message = (
        f"{outcome.values['error']} It resumes from the newest one that is whole, or starts over."
    )
    return {
        "resumes": run.resumes + 1,
        "warnings": warnings_with(run, "checkpoint_passed_over", message),
    }


def _shrinking(run: TrainRun) -> dict[str, Any] | None:
    """Changes to the parameters that need less memory; None where nothing more can be tried."""
    for remedy_for in LADDER:
        remedy = remedy_for(run.parameters)
        if remedy is None:
            continue

        message = (
            f"Memory ran out in attempt {run.attempt}. It resumes with less: "
            f"{remedy.words.lower()}."
        )
        return {
            "parameters": run.parameters | remedy.changes,
            "warnings": warnings_with(run, "shrunk", message),
        }

    return None


def warnings_with(run: TrainRun, code: str, message: str) -> list[dict[str, Any]]:
    """Its warnings and a new one."""
    warning = {
        "code": code,
        "message": message,
        "time": timezone.now().timestamp(),
    }
    return [*run.warnings, warning][-WARNINGS_KEPT:]


def _whole_checkpoint(
    run: TrainRun, wanted: int | None, *, at_most: int | None = None
) -> Path | None:
    """The complete checkpoint of step `wanted`, or the newest complete one. at_most: bytes to read,
    see checkpoint_is_whole, for a request that must not read for minutes."""
    for step, folder in checkpoints(run.directory):
        if wanted is not None and step != wanted:
            continue
        if checkpoint_is_whole(folder, at_most=at_most):
            return folder

    return None


def _queue_again(
    run: TrainRun, checkpoint: Path | None, *, first: bool = False, **changes: Any
) -> bool:
    """Put the train back into the queue as its next attempt. first: by itself, before all others.
    Returns whether this caller did so."""
    ended_at = (run.finished_at or timezone.now()).timestamp()

    with transaction.atomic():
        queue_insert(run, first=first)
        won = run.transition(
            Status.QUEUED,
            attempt=run.attempt,
            place=run.place,
            discards=False,
            earlier_seconds=run_seconds(run) or 0,
            facts=attempt_end(run.facts, ended_at) | {RESUMED_BY_ITSELF: first},
            last_step_at=None,
            started_at=None,
            finished_at=None,
            eta_seconds=None,
            eta_at=None,
            eta_basis="",
            error_code="",
            error="",
            error_advice="",
            outcome={},
            phase="",
            worker="",
            process="",
            gathers_on="",
            gathers_until=None,
            **changes,
        )

        if not won:
            return False

        for name in (STOP, SAVE):
            (run.directory / name).unlink(missing_ok=True)

        spec = replace(
            read_spec(run.directory),
            attempt=run.attempt,
            parameters=run.parameters,
            resume_from=str(checkpoint) if checkpoint is not None else None,
            last_seq=run.last_seq,
        )
        spec_write(run, spec)

        workers_notify()

    return True
