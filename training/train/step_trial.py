"""Try one step: a step of the real configuration on a worker, before any train of it. What it takes is
kept as a measurement, which forecasts are corrected by; nothing of it becomes a train.

It runs where background work runs. Its rows are as long as those of the largest batch that the train
would meet, so its peak is that of the train."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from core.errors import UserError
from core.programs import ProgramProblem, TimeLimitReached, program_run
from core.store import trials_folder
from datasets_app.models import Dataset
from engine.contract.rundir import StartAdapter, write_spec
from engine.forecast.batches import Batch
from engine.forecast.shape import ShapeUnknown
from engine.forecast.workload import Target, Workload
from jobs.adding import job_add
from jobs.devices.presence import WorkerState, worker_state
from jobs.kinds import BROKE_OFF, CANCELLED, TOO_LONG, NotNow
from jobs.progress import progress_report
from jobs.services import job_cancel
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.models import StepMeasurement, TrainRun
from training.train.carrying_on import adapter_take
from training.train.forecast import Forecaster, lengths_ready
from training.train.services import spec_of, train_check

KIND = "step-trial"
# The engine's program, and the file that it reads beside the spec.
ONE_STEP = "engine.programs.one_step"
ONE_STEP_ORDER = "one_step.json"
EXPECTED_SECONDS = 60
SECONDS = 600
# A step of answers takes as long as ten others.
STEPS = {"grpo": 1, "ppo": 1}
LATER_SECONDS = 10.0
# Of a machine without GPUs: a step that asks for more ends by itself, before the system ends others.
MOST_OF_MEMORY = 0.9
ENDINGS = {
    CANCELLED: "The step was cancelled.",
    TOO_LONG: f"The step took longer than {SECONDS // 60} minutes and was ended.",
    BROKE_OFF: "The step was killed, most likely for lack of memory.",
}


def step_try(
    *,
    by: User,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    parameters: dict[str, Any],
    system_prompt: str = "",
    continue_adapter: bool = False,
    state: WorkerState | None = None,
) -> StepMeasurement:
    """Begin a trial of one step. Raises UserError by field where the train itself could not be started
    for another reason than its memory."""
    if method.is_custom:
        raise UserError("A custom program decides itself what a step is.")

    state = state or worker_state()
    check = train_check(
        owner=by,
        method=method,
        base_model=base_model,
        dataset=dataset,
        parameters=parameters,
        continue_adapter=continue_adapter,
        device=state.device_kind,
        looks_at_memory=False,
    )
    resolved, plan = check.insist()
    batch = _batch(method, base_model, dataset, resolved, plan.steps)
    measurement = StepMeasurement.objects.create(
        asked_by=by,
        method=method,
        base_model=base_model,
        dataset=dataset,
        parameters=resolved,
        batch=asdict(batch),
    )

    folder = folder_of(measurement)
    # A leftover of a database that was restored to an earlier state.
    shutil.rmtree(folder, ignore_errors=True)
    run = TrainRun(
        owner=by,
        name="One step",
        method=method,
        method_version=method.version,
        base_model=base_model,
        dataset=dataset,
        parameters=resolved,
        system_prompt=system_prompt,
        continue_adapter=continue_adapter,
    )
    try:
        folder.mkdir(parents=True, mode=0o700)
        adapter: StartAdapter | None = None
        if continue_adapter:
            adapter = adapter_take(base_model, folder)

        write_spec(folder, spec_of(run, None, adapter))
        (folder / ONE_STEP_ORDER).write_text(json.dumps(_order(method, resolved, batch)))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        measurement.delete()
        raise

    job_add(
        KIND,
        measurement.pk,
        key=key_of(measurement.pk),
        name=f"{base_model.name}, {method.name}",
        owner_id=by.pk,
        expected_seconds=EXPECTED_SECONDS,
        limit_seconds=2 * SECONDS,
    )

    return measurement


def key_of(pk: int) -> str:
    return f"{KIND}-{pk}"


def folder_of(measurement: StepMeasurement) -> Path:
    return trials_folder() / f"step-{measurement.pk}"


def _batch(
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    parameters: dict[str, Any],
    steps: int,
) -> Batch:
    """The largest of the train. Raises UserError while the tokens are not counted."""
    lengths = lengths_ready(base_model, dataset)
    if isinstance(lengths, str):
        raise UserError({"dataset": [lengths]})

    try:
        forecaster = Forecaster(method=method, base_model=base_model, lengths=lengths, steps=steps)
        return forecaster.batch(parameters)
    except ShapeUnknown as unknown:
        raise UserError({"base_model": [str(unknown)]}) from unknown


def _order(method: TrainingMethod, parameters: dict[str, Any], batch: Batch) -> dict[str, Any]:
    """What engine.programs.one_step reads."""
    work = Workload(method.recipe, parameters, batch, Target("cpu", half=False))
    writes = work.writes_answers
    accumulation = int(parameters["gradient_accumulation_steps"])
    tokens = batch.longest - batch.answer if writes else -(-batch.tokens // batch.rows)

    return {
        "tokens": tokens,
        "rows": batch.rows * accumulation // int(parameters.get("num_generations") or 1),
        "prompts": writes,
        "steps": STEPS.get(method.recipe, 2),
    }


def step_read(*, by: User, pk: int) -> dict[str, Any] | None:
    """{"done", "error", "peak_bytes", "step_seconds", "device"}; None for one that is not there, or not
    this person's."""
    measurement = StepMeasurement.objects.filter(pk=pk, asked_by=by).first()
    if measurement is None:
        return None

    return {
        "id": measurement.pk,
        "done": measurement.done_at is not None,
        "error": measurement.error,
        "peak_bytes": measurement.peak_bytes,
        "step_seconds": measurement.step_seconds,
        "device": str(measurement.device.get("name", "")),
    }


def step_cancel(*, by: User, pk: int) -> bool:
    """End a trial. False for one that is not there, or not this person's."""
    measurement = StepMeasurement.objects.filter(pk=pk, asked_by=by).first()
    if measurement is None:
        return False

    if measurement.done_at is None:
        job_cancel(key_of(pk))
        step_ended(pk, CANCELLED)

    return True


def step_run(pk: int) -> str:
    """The background work. Returns why there is no result, or nothing. Raises NotNow while a train has
    the GPU."""
    measurement = StepMeasurement.objects.filter(pk=pk, done_at=None).first()
    if measurement is None:
        return ""

    state = worker_state()
    if state.device_kind == "cuda" and TrainRun.objects.active().exists():
        raise NotNow("It waits until no train has the GPU.", seconds=LATER_SECONDS)

    progress_report("Making one step")
    folder = folder_of(measurement)
    was_beside = TrainRun.objects.active().exists()

    try:
        found = program_run(
            ONE_STEP,
            str(folder),
            seconds=SECONDS,
            memory_bytes=_memory_bytes(state),
            too_long=ENDINGS[TOO_LONG],
            work="The step",
            environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    except TimeLimitReached as problem:
        return _close(measurement, error=str(problem))
    except ProgramProblem as problem:
        return _close(measurement, error=str(problem))

    # Beside a train a step takes longer than it will.
    was_beside = was_beside or TrainRun.objects.active().exists()
    return _close(
        measurement,
        peak_bytes=int(found["peak_bytes"]),
        step_seconds=None if was_beside else found.get("step_seconds"),
        device=found["device"],
    )


def _memory_bytes(state: WorkerState) -> int | None:
    """None where there is a GPU, whose driver maps many times what a process uses."""
    device = state.device or {}
    memory = float(device.get("memory_gb") or 0)
    if state.device_kind != "cpu" or not memory:
        return None

    return round(MOST_OF_MEMORY * memory * 2**30)


def _close(measurement: StepMeasurement, **values: Any) -> str:
    """Write the result, once. Returns its error."""
    open_rows = StepMeasurement.objects.filter(pk=measurement.pk, done_at=None)
    open_rows.update(done_at=timezone.now(), **values)
    shutil.rmtree(folder_of(measurement), ignore_errors=True)
    return str(values.get("error", ""))


def step_ended(pk: int, reason: str) -> None:
    """Record that a trial ended early, for a reason of jobs.kinds."""
    measurement = StepMeasurement.objects.filter(pk=pk, done_at=None).first()
    if measurement is not None:
        _close(measurement, error=ENDINGS[reason])
