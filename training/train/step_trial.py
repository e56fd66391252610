"""Try one step: a step of the real configuration on a worker, before any train of it. What it takes is
kept as a measurement, which forecasts are corrected by; nothing of it becomes a train.

It runs where background work runs. Its rows are as long as those of the largest batch that the train
would meet, and answers as long as they may be, so its peak is that of the train. GPUs are held for it as
for a train; on a CPU it runs beside trains, within the memory that they leave."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from core.devices import devices_environment
from core.errors import UserError
from core.memory import memory_available
from core.programs import (
    MemoryLimitReached,
    ProgramKilled,
    ProgramProblem,
    TimeLimitReached,
    program_run,
)
from core.store import trials_folder
from core.text import counted
from datasets_app.models import Dataset
from engine.contract.arithmetic import effective_batch
from engine.contract.rundir import StartAdapter, write_spec
from engine.forecast.memory import memory_forecast
from engine.forecast.shape import ModelShape, ShapeUnknown
from engine.forecast.workload import Target, Workload, row_limit
from engine.messages.failures import OUT_OF_MEMORY, failure_from_text
from jobs.adding import job_add
from jobs.devices.locks import DeviceLocks
from jobs.devices.machines import Present
from jobs.devices.presence import WorkerState, worker_state
from jobs.devices.sharing import devices_for_train, devices_held
from jobs.kinds import BROKE_OFF, CANCELLED, TOO_LONG, NotNow
from jobs.models import Job
from jobs.progress import progress_report
from jobs.services import job_cancel
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.forecast.forecaster import Forecaster
from training.forecast.inputs import lengths_ready
from training.models import StepMeasurement, TrainRun
from training.train.carrying_on import adapter_take
from training.train.services import spec_of, train_check
from training.train.trial import NVIDIA

KIND = "step-trial"
# The engine's program, and the file that it reads beside the spec.
ONE_STEP = "engine.programs.one_step"
ONE_STEP_ORDER = "one_step.json"
EXPECTED_SECONDS = 60
SECONDS = 600
# The first step of a process takes longer than others.
STEPS = 2
LATER_SECONDS = 10.0
# Of what a machine without GPUs has left: a step that asks for more ends by itself, before the system
# ends others.
MOST_OF_MEMORY = 0.9
# So many steps of one person wait or run at most.
MOST_OPEN = 5
# What a killed process has left is removed after so long.
LEFTOVER_SECONDS = 86_400
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
        system_prompt=system_prompt,
        continue_adapter=continue_adapter,
        device=state.device_kind,
        looks_at_memory=False,
    )
    resolved, plan = check.insist()
    lengths = lengths_ready(base_model, dataset, system_prompt)
    if isinstance(lengths, str):
        raise UserError({"dataset": [lengths]})

    device = state.device or {}
    try:
        forecaster = Forecaster(
            method=method, base_model=base_model, lengths=lengths, steps=plan.steps
        )
        batch = forecaster.batch(resolved, device)
    except ShapeUnknown as unknown:
        raise UserError({"base_model": [str(unknown)]}) from unknown

    work = Workload(method.recipe, resolved, batch, Target.of(device))
    leftovers_remove()
    if StepMeasurement.objects.filter(asked_by=by, done_at=None).count() >= MOST_OPEN:
        raise UserError(f"{MOST_OPEN} steps of yours wait or run already. Cancel one, or wait.")

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
    order = _order(forecaster.shape, work)
    order["computed_bytes"] = memory_forecast(forecaster.shape, work).total * work.devices

    with transaction.atomic():
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

        try:
            folder.mkdir(parents=True, mode=0o700)
            adapter: StartAdapter | None = None
            if continue_adapter:
                adapter = adapter_take(base_model, folder)

            write_spec(folder, spec_of(run, None, adapter))
            (folder / ONE_STEP_ORDER).write_text(json.dumps(order))
            job_add(
                KIND,
                measurement.pk,
                key=key_of(measurement.pk),
                name=f"{base_model.name}, {method.name}",
                owner_id=by.pk,
                expected_seconds=EXPECTED_SECONDS,
                limit_seconds=2 * SECONDS,
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    return measurement


def leftovers_remove() -> None:
    """Close trials whose job is gone, and remove folders that no open trial has: those of processes that
    were killed, and of rows that were deleted."""
    old = timezone.now() - timedelta(seconds=LEFTOVER_SECONDS)
    open_jobs = Job.objects.filter(kind=KIND, status__in=Job.OPEN)
    numbers = {arguments[0] for arguments in open_jobs.values_list("arguments", flat=True)}

    for measurement in StepMeasurement.objects.filter(done_at=None, created_at__lt=old):
        if measurement.pk not in numbers:
            _close(measurement, error=ENDINGS[BROKE_OFF])

    waiting = StepMeasurement.objects.filter(done_at=None).values_list("pk", flat=True)
    names = {f"step-{pk}" for pk in waiting}

    for folder in trials_folder().glob("step-*"):
        try:
            is_old = time.time() - folder.stat().st_mtime > LEFTOVER_SECONDS
        except FileNotFoundError:
            continue

        if is_old and folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)


def steps_delete(by: User) -> None:
    """Delete what a person who goes has tried: it holds what they wrote."""
    for measurement in StepMeasurement.objects.filter(asked_by=by):
        if measurement.done_at is None:
            job_cancel(key_of(measurement.pk))

        shutil.rmtree(folder_of(measurement), ignore_errors=True)
        measurement.delete()


def key_of(pk: int) -> str:
    return f"{KIND}-{pk}"


def folder_of(measurement: StepMeasurement) -> Path:
    return trials_folder() / f"step-{measurement.pk}"


def _order(model: ModelShape, work: Workload) -> dict[str, Any]:
    """What engine.programs.one_step reads."""
    parameters, batch = work.parameters, work.batch
    writes = work.writes_answers
    accumulation = int(parameters["gradient_accumulation_steps"])
    rows = effective_batch(batch.rows, accumulation, work.devices)
    prompt = batch.longest - batch.answer
    iterations = work.iterations

    return {
        "tokens": batch.rows * prompt if writes else batch.tokens,
        "longest": prompt,
        "batch": batch.rows,
        "rows": rows // int(parameters.get("num_generations") or 1),
        "limit": row_limit(model, parameters),
        "packed": work.is_packed(model),
        "prompts": writes,
        # A step of answers takes as long as ten others, so it is made once.
        "steps": min(STEPS, iterations) if writes else STEPS,
        "iterations": iterations,
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
    """The background work. Returns why there is no result, or nothing. Raises NotNow while trains have
    the GPUs, or the memory, of this machine."""
    measurement = StepMeasurement.objects.filter(pk=pk, done_at=None).first()
    if measurement is None:
        return ""

    width = int(measurement.parameters.get("devices") or 1)
    with _gpus(worker_state(), width) as (environment, device):
        return _step_make(measurement, environment, device)


def _step_make(
    measurement: StepMeasurement, environment: dict[str, str] | None, device: dict[str, Any]
) -> str:
    """environment: by which it finds its GPUs; None on a CPU. device: the first of these; {} where it
    is not known."""
    folder = folder_of(measurement)
    memory = None if environment is not None else _memory_bytes(folder)
    progress_report("Making one step")
    was_beside = TrainRun.objects.active().exists()

    try:
        found = program_run(
            ONE_STEP,
            str(folder),
            seconds=SECONDS,
            memory_bytes=memory,
            too_long=ENDINGS[TOO_LONG],
            work="The step",
            environment={
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                **(environment or {}),
            },
        )
    except TimeLimitReached as problem:
        return _close(measurement, error=str(problem))
    except ProgramProblem as problem:
        was_beside = was_beside or TrainRun.objects.active().exists()
        # What a train beside it has says nothing of what the device has.
        if not _is_out_of_memory(problem) or was_beside:
            return _close(measurement, error=str(problem), device={})

        kind = "cpu" if environment is None else "cuda"
        return _close(measurement, error=str(problem), device=device or _device_here(kind))

    # Beside a train a step takes longer than it will.
    was_beside = was_beside or TrainRun.objects.active().exists()
    return _close(
        measurement,
        peak_bytes=int(found["peak_bytes"]),
        step_seconds=None if was_beside else found.get("step_seconds"),
        device=found["device"],
        # What the step really had: it speaks for trains with that batch alone.
        batch=found["batch"],
    )


def _is_out_of_memory(problem: ProgramProblem) -> bool:
    if isinstance(problem, ProgramKilled | MemoryLimitReached):
        return True

    failure = failure_from_text(str(problem))
    return failure is not None and failure.code == OUT_OF_MEMORY.code


def _device_here(kind: str) -> dict[str, Any]:
    """The first device of that kind that training workers of this machine have; none where there are
    none."""
    here = socket.gethostname()
    devices = (
        device
        for machine in worker_state().machines
        if machine.host == here and not machine.is_cluster
        for device in machine.devices.values()
        if device["kind"] == kind
    )
    return dict(next(devices, {}))


@contextmanager
def _gpus(state: WorkerState, width: int) -> Iterator[tuple[dict[str, str] | None, dict[str, Any]]]:
    """Hold so many GPUs of this machine, so that no train takes them meanwhile. Gives the environment by
    which a program finds them, and the first of them; (None, {}) where no training worker of this machine
    has a GPU. Raises NotNow."""
    here = [machine for machine in state.machines if _is_here(machine)]
    if not here:
        # A driver maps many times what a process uses, so that its memory cannot be limited.
        yield {} if NVIDIA.exists() else None, {}
        return

    locks = DeviceLocks()
    try:
        chosen = next(filter(None, (_taken(locks, machine, width) for machine in here)), None)
        if chosen is None:
            raise NotNow(_waits_for(width), seconds=LATER_SECONDS)

        machine, identities = chosen
        with devices_for_train("cuda", identities):
            yield _environment(machine, identities), dict(machine.devices[identities[0]])
    finally:
        locks.close()


def _is_here(machine: Present) -> bool:
    slot = machine.slot.partition("/")[0]
    is_own = (machine.host, slot) == (socket.gethostname(), settings.WORKER_SLOT)
    return is_own and machine.kind == "cuda"


def _taken(locks: DeviceLocks, machine: Present, width: int) -> tuple[Present, list[str]] | None:
    """The first `width` free devices of a machine, which are locked now; None where fewer are free."""
    held = devices_held(machine.host, machine.devices)
    free = [name for name in machine.devices if name not in held and locks.take(name)]
    chosen = free[:width] if len(free) >= width else []
    locks.keep(set(chosen))
    return (machine, chosen) if chosen else None


def _environment(machine: Present, identities: list[str]) -> dict[str, str]:
    return devices_environment([machine.devices[name] for name in identities])


def _trains_here() -> list[TrainRun]:
    """Those that run on this machine, and not on a cluster."""
    active = TrainRun.objects.active().filter(host=socket.gethostname())
    return [run for run in active if not run.cluster]


def _waits_for(width: int) -> str:
    """At most 80 characters."""
    trains = len(_trains_here())
    what = "a free GPU" if width == 1 else counted(width, "free GPU")
    return f"Waits for {what}" + (
        f" ({counted(trains, 'train')} on this machine)" if trains else ""
    )


def _memory_bytes(folder: Path) -> int:
    """What the step may use of this machine's memory. Raises NotNow while a train runs here and what is
    left is less than the step is computed to take."""
    left = round(MOST_OF_MEMORY * memory_available())
    computed = json.loads((folder / ONE_STEP_ORDER).read_text()).get("computed_bytes", 0)

    if computed > left and _trains_here():
        raise NotNow("Waits for the memory that trains here have", seconds=LATER_SECONDS)

    return left


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
