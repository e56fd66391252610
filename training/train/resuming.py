"""Going on with a train that ended before its time: the same train, its next attempt, from a
checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
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
from training.models import TrainRun
from training.pages.remedies import LADDER, OUT_OF_MEMORY
from training.train.branching import HASHED_BYTES
from training.train.durations import run_seconds
from training.train.phases import attempt_end
from training.train.plan import disk_bytes
from training.train.spec_paths import spec_write
from training.work.notices import notices_create
from training.work.outcome import BAD_CHECKPOINT, WORKER_LOST, Outcome
from training.work.queue import line_up, ring

logger = logging.getLogger("deepextension.resuming")

Status = TrainRun.Status


def resumable_steps(run: TrainRun) -> list[int]:
    """Steps of whole checkpoints, the newest first. Their files are looked at, not read."""
    if run.status not in (Status.STOPPED, Status.FAILED) or run.method.is_custom:
        return []

    return [
        step
        for step, folder in checkpoints(run.directory)
        if checkpoint_is_whole(folder, hashes=False)
    ]


def resume_obstacle(run: TrainRun) -> str:
    """Why a train cannot go on, not even from its beginning, or nothing."""
    if run.status not in (Status.STOPPED, Status.FAILED):
        return "Only a train that was stopped or failed can be resumed."
    if run.method.is_custom:
        return f"{run.method.name} is a custom program, which cannot be resumed. Copy the train."
    if not run.base_model.path.is_dir():
        return f"The files of {run.base_model.name} are gone."

    gone = [
        data
        for data in (run.dataset, run.evaluation_dataset)
        if data is not None and not data.path.is_file()
    ]

    if gone:
        return f"The file of {gone[0].title} is gone."

    return ""


def train_resume(*, run: TrainRun, by: User, step: int | None = None) -> TrainRun:
    """Queue the train again, to go on after `step` (0: from the beginning), or after its newest
    whole checkpoint. What it told of later steps is taken away when it starts. Raises UserError.
    """
    owner_check(run, by)

    if obstacle := resume_obstacle(run):
        raise UserError(obstacle, code="wrong_state")

    checkpoint = None if step == 0 else _whole_checkpoint(run, step, at_most=HASHED_BYTES)
    if checkpoint is None and step != 0:
        reason = (
            "It has no whole checkpoint to resume from."
            if step is None
            else f"There is no whole checkpoint of step {step:,}."
        )

        raise UserError({"step": [f"{reason} Start it over from step 0, or copy it."]})

    require_disk(
        2 * folder_size(checkpoint)
        if checkpoint is not None
        else disk_bytes(run.base_model, run.parameters)
    )

    if not _queue_again(run, checkpoint, resumes=0):
        raise UserError("Somebody else has moved this train on. Look again.", code="wrong_state")

    return run


def end_or_go_on(run: TrainRun, outcome: Outcome) -> bool:
    """Write how the train ended. One that can go on by itself goes back to the queue in the same
    transaction, to its newest whole checkpoint or to the beginning where there is none. Returns
    whether this caller ended it."""
    asked_to_stop = run.status == Status.STOPPING
    goes_on = None if asked_to_stop else _goes_on_alone(run, outcome)
    checkpoint = _whole_checkpoint(run, None) if goes_on is not None else None

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

        if won and goes_on is not None and _queue_again(run, checkpoint, first=True, **goes_on):
            step = checkpoint_step(checkpoint) if checkpoint is not None else 0
            logger.warning(
                "train %s (%s) goes on after step %s", run.pk, outcome.values["error_code"], step
            )
        elif won:
            notices_create(run)
            if outcome.status == Status.FINISHED:
                ring(run.followers.filter(status=Status.QUEUED).count())

    return won


def _goes_on_alone(run: TrainRun, outcome: Outcome) -> dict[str, Any] | None:
    """Changes with which the train goes on by itself; None where it does not. A lost worker costs
    DEEPEXTENSION_RESUMES attempts at most, counted anew when a person lets it go on, and so does a
    checkpoint that was cut after the platform had chosen it; where memory ran out and that was
    asked for, each rung of the ladder one."""
    code = outcome.values.get("error_code", "")

    if run.method.is_custom or not run.base_model.path.is_dir():
        return None

    try:
        spec = read_spec(run.directory)
    except SpecError:
        # Somebody has taken its folder away.
        return None

    if code == WORKER_LOST and run.resumes < settings.RESUMES:
        return {"resumes": run.resumes + 1}

    # One that a person chose is theirs to choose again, and what a branch begins with is nothing to
    # pass over.
    if code == BAD_CHECKPOINT and 0 < run.resumes < settings.RESUMES and spec.resume_from:
        message = (
            f"{outcome.values['error']} It resumes from the newest one that is whole, or "
            "starts over."
        )
        return {"resumes": run.resumes + 1} | _warned(run, "checkpoint_passed_over", message)

    if code in OUT_OF_MEMORY and run.parameters.get("on_out_of_memory") == "shrink":
        rung = next((found for rung in LADDER if (found := rung(run.parameters)) is not None), None)
        if rung is not None:
            message = (
                f"Memory ran out in attempt {run.attempt}. It resumes with less: "
                f"{rung.words.lower()}."
            )
            return {"parameters": run.parameters | rung.changes} | _warned(run, "shrunk", message)

    return None


def _warned(run: TrainRun, code: str, message: str) -> dict[str, Any]:
    warning = {"code": code, "message": message, "time": timezone.now().timestamp()}
    return {"warnings": [*run.warnings, warning][-100:]}


def _whole_checkpoint(
    run: TrainRun, wanted: int | None, *, at_most: int | None = None
) -> Path | None:
    """Of `wanted`, or the newest; one that is cut is passed over for the one before it. at_most: as
    checkpoint_is_whole has it, for a request that must not read for minutes."""
    return next(
        (
            folder
            for step, folder in checkpoints(run.directory)
            if (wanted is None or step == wanted) and checkpoint_is_whole(folder, at_most=at_most)
        ),
        None,
    )


def _queue_again(
    run: TrainRun, checkpoint: Path | None, *, first: bool = False, **changes: Any
) -> bool:
    with transaction.atomic():
        line_up(run, first=first)
        won = run.transition(
            Status.QUEUED,
            attempt=run.attempt,
            place=run.place,
            discards=False,
            earlier_seconds=run_seconds(run) or 0,
            facts=attempt_end(run.facts, (run.finished_at or timezone.now()).timestamp()),
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
            **changes,
        )

        if not won:
            return False

        for name in (STOP, SAVE):
            (run.directory / name).unlink(missing_ok=True)

        spec = read_spec(run.directory)
        spec_write(
            run,
            replace(
                spec,
                attempt=run.attempt,
                parameters=run.parameters,
                resume_from=str(checkpoint) if checkpoint is not None else None,
                last_seq=run.last_seq,
            ),
        )

        ring()

    return True
