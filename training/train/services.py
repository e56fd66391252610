"""Everything that changes a train. Pages, API, admin and jobs call these."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from core.errors import UserError
from core.ownership import deletion_check, owner_check
from core.store import located_path, require_disk
from core.text import clean_label, clean_text
from datasets_app.models import Dataset
from engine.chat.render import NO_TOOLS, template_knows_tools
from engine.contract.rundir import (
    Branch,
    DataFile,
    HubModel,
    Program,
    Spec,
    StartAdapter,
    save_request,
)
from engine.doctor.finding_kinds import TOOL_CALLS
from jobs.devices.launchers import ANYWHERE
from jobs.devices.presence import WorkerState, devices_check, worker_state
from jobs.queue import queue_insert, starts_after_check
from methods.models import TrainingMethod
from methods.services import method_defaults, method_formats, parameters_validate
from models_app.models import BaseModel
from training.forecast.inputs import reward_model_bytes
from training.forecast.making import forecast_make
from training.forecast.verdicts import Forecast
from training.models import TrainRun, width_of
from training.train.branching import Origin, branch_check, branch_prepare, branch_take
from training.train.carrying_on import adapter_take, carried_parameters, loaded_model
from training.train.labels import labels_begin, labels_clean, labels_set
from training.train.launching import device_kind_for, launcher_check
from training.train.needed import needed_text, waiting_stop
from training.train.plan import Plan, disk_bytes, plan_check, train_plan
from training.train.reward_resources import resources_of
from training.train.spec_paths import spec_write
from training.work.queue import (
    device_kinds,
    may_manage_queue,
    priority_check,
    workers_notify,
)

__all__ = [
    "Plan",
    "WorkerState",
    "train_check",
    "train_create",
    "train_delete",
    "train_plan",
    "train_save",
    "train_stop",
    "train_update",
    "worker_state",
]

Status = TrainRun.Status


def train_create(
    *,
    owner: User,
    name: str,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    evaluation_dataset: Dataset | None = None,
    parameters: dict[str, Any],
    system_prompt: str = "",
    notes: str = "",
    copied_from: TrainRun | None = None,
    idempotency_key: str | None = None,
    priority: int = TrainRun.Priority.NORMAL,
    branch: Origin | None = None,
    starts_after: TrainRun | None = None,
    labels: Iterable[str] = (),
    continue_adapter: bool = False,
    start_anyway: bool = False,
    launcher: str = ANYWHERE,
) -> tuple[TrainRun, bool]:
    """Check everything, write the row and its spec.json, and queue it. Returns (train, whether it
    is new). `start_anyway`: though the forecast says that it cannot fit, which is for operators.
    `launcher`: where it may run, see jobs.devices.launchers.

    The same owner with the same idempotency key gets the train that the first call created. Raises
    UserError by field."""
    earlier = _train_of_key(owner, idempotency_key)
    if earlier is not None:
        return earlier, False

    device = device_kind_for(launcher, worker_state())
    check = train_check(
        owner=owner,
        method=method,
        base_model=base_model,
        dataset=dataset,
        evaluation_dataset=evaluation_dataset,
        parameters=parameters,
        system_prompt=system_prompt,
        priority=priority,
        branch=branch,
        starts_after=starts_after,
        labels=labels,
        continue_adapter=continue_adapter,
        start_anyway=start_anyway,
        launcher=launcher,
        device=device,
    )
    parameters, plan = check.insist()
    weights = branch_prepare(check.checkpoint) if check.checkpoint is not None else None

    run = TrainRun(
        owner=owner,
        name=clean_label(name, limit=120) or f"{dataset.slug}-{method.slug}"[:120],
        notes=clean_text(notes),
        method=method,
        method_version=method.version,
        base_model=base_model,
        dataset=dataset,
        evaluation_dataset=evaluation_dataset,
        parameters=parameters,
        defaults=method_defaults(method, device=device),
        system_prompt=clean_text(system_prompt),
        copied_from=copied_from,
        branched_from=branch.run if branch is not None else None,
        branch_step=branch.step if branch is not None else None,
        continue_adapter=continue_adapter,
        launcher=launcher,
        idempotency_key=idempotency_key or None,
        priority=priority,
        starts_after=starts_after,
        planned_rows=plan.steps * plan.effective_batch,
        forecast=check.forecast.kept() if check.forecast is not None else {},
        started_anyway=check.is_risked,
    )

    try:
        with transaction.atomic():
            queue_insert(run)
            run.save()
            labels_begin(run, check.labels)
            _prepare_directory(run, weights, branch)
            workers_notify()
    except IntegrityError:
        # A request with the same key, such as the other half of a double click, was faster.
        earlier = _train_of_key(owner, idempotency_key)
        if earlier is None:
            raise

        return earlier, False
    finally:
        if weights is not None:
            shutil.rmtree(weights, ignore_errors=True)

    return run, True


def _train_of_key(owner: User, idempotency_key: str | None) -> TrainRun | None:
    if not idempotency_key:
        return None

    return TrainRun.objects.filter(owner=owner, idempotency_key=idempotency_key).first()


@dataclass
class TrainCheck:
    """What stands against a train, and what was found out on the way.

    `errors`: {field: [text]}, "" for the train as a whole. `parameters`: every one, resolved; None
    where they are refused. `plan`: None where ingredients or parameters are refused. `checkpoint`:
    the folder whose weights a branch begins with. `forecast`: of its memory, where there is a plan.
    `is_risked`: an operator starts it although it cannot fit."""

    errors: dict[str, list[str]] = field(default_factory=dict)
    parameters: dict[str, Any] | None = None
    plan: Plan | None = None
    labels: list[str] = field(default_factory=list)
    checkpoint: Path | None = None
    forecast: Forecast | None = None
    is_risked: bool = False
    refusals: list[UserError] = field(default_factory=list)

    def refuse(self, refusal: UserError) -> None:
        self.refusals.append(refusal)
        for name, texts in refusal.fields.items():
            self.errors.setdefault(name, []).extend(texts)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep a UserError of the block, so that everything else is checked too."""
        try:
            yield
        except UserError as refusal:
            self.refuse(refusal)

    def insist(self) -> tuple[dict[str, Any], Plan]:
        """(parameters, plan) of a train that can start. Raises UserError with every reason why it
        cannot."""
        if self.parameters is None or self.plan is None or self.refusals:
            # A full disk keeps its code and status (507) beside other refusals.
            special = [refusal for refusal in self.refusals if refusal.status != 400]
            first = [*special, *self.refusals][0]
            is_alone = len(self.refusals) == 1
            code = first.code if is_alone or special else "invalid"
            raise UserError(self.errors, code=code, status=first.status)

        return self.parameters, self.plan


def train_check(
    *,
    owner: User,
    method: TrainingMethod,
    base_model: BaseModel | None,
    dataset: Dataset | None,
    evaluation_dataset: Dataset | None = None,
    parameters: dict[str, Any],
    system_prompt: str = "",
    priority: int = TrainRun.Priority.NORMAL,
    branch: Origin | None = None,
    starts_after: TrainRun | None = None,
    labels: Iterable[str] = (),
    continue_adapter: bool = False,
    start_anyway: bool = False,
    looks_at_memory: bool = True,
    held: Collection[str] = (),
    launcher: str = ANYWHERE,
    device: str,
) -> TrainCheck:
    """Everything that can be said against a train before it starts: what the form shows while
    somebody types, and what the start refuses. Writes nothing.

    device: "cpu" or "cuda", what the worker has. start_anyway: `owner`, an operator, takes it on
    themselves where the train cannot fit. looks_at_memory: whether that is asked at all. held: names
    of parameters that no fix of it may touch.
    """
    check = TrainCheck()
    if base_model is None:
        check.refuse(UserError({"base_model": ["Choose a base model."]}))
    if dataset is None:
        check.refuse(UserError({"dataset": ["Choose a dataset."]}))

    if base_model is not None and dataset is not None:
        with check.collecting():
            ingredients_check(
                method=method,
                base_model=base_model,
                dataset=dataset,
                evaluation_dataset=evaluation_dataset,
            )

    if continue_adapter and base_model is not None:
        with check.collecting():
            parameters = carried_parameters(method, base_model, parameters, owner)

    with check.collecting():
        check.parameters = parameters_validate(method, parameters, device=device)

    can_be_planned = not check.refusals

    if check.parameters is not None:
        with check.collecting():
            devices_check(
                width_of(method, check.parameters),
                device_kinds(method, check.parameters),
                launcher,
            )

    with check.collecting():
        launcher_check(launcher, method)

    with check.collecting():
        priority_check(priority, owner)
    with check.collecting():
        starts_after_check(starts_after)
    with check.collecting():
        check.labels = labels_clean(labels)

    if check.parameters is None or base_model is None or dataset is None:
        return check

    if can_be_planned:
        check.plan = train_plan(
            method=method,
            base_model=base_model,
            dataset=dataset,
            evaluation_dataset=evaluation_dataset,
            parameters=check.parameters,
        )
        with check.collecting():
            plan_check(check.plan)
        with check.collecting():
            resources_of(check.parameters, owner)
        with check.collecting():
            require_disk(disk_bytes(base_model, check.parameters))

        if looks_at_memory and not check.plan.errors:
            check.forecast = forecast_make(
                method=method,
                base_model=base_model,
                dataset=dataset,
                evaluation_dataset=evaluation_dataset,
                parameters=check.parameters,
                steps=check.plan.steps,
                system_prompt=system_prompt,
                # What is not there is refused by resources_of.
                reward_bytes=reward_model_bytes(check.parameters, owner) or 0,
                launcher=launcher,
                held=held,
            )
            with check.collecting():
                check.is_risked = memory_check(check.forecast, owner, start_anyway)

    if branch is not None:
        with check.collecting():
            check.checkpoint = branch_check(
                branch,
                method=method,
                base_model=base_model,
                parameters=check.parameters,
                continue_adapter=continue_adapter,
            )

    return check


def memory_check(forecast: Forecast, owner: User, start_anyway: bool) -> bool:
    """Whether a train that cannot fit is started all the same. Raises UserError {"memory": [text]} where
    it is not."""
    if not forecast.cannot_fit:
        return False
    if start_anyway and may_manage_queue(owner):
        return True

    text = forecast.refusal()
    if start_anyway:
        text += " Only operators can start it anyway."

    raise UserError({"memory": [text]}, code="does_not_fit")


def ingredients_check(
    *,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    evaluation_dataset: Dataset | None,
) -> None:
    """Whether these can be trained together at all. Raises UserError by field."""
    errors: dict[str, list[str]] = {}

    if method.retired_at is not None:
        errors["method"] = [f"{method.name} is no longer offered. Choose another method."]

    if reason := _base_model_obstacle(base_model, dataset):
        errors["base_model"] = [reason]

    for name, data in (("dataset", dataset), ("evaluation_dataset", evaluation_dataset)):
        if data is not None and (reason := dataset_obstacle(data, method)):
            errors[name] = [reason]

    if evaluation_dataset is not None and evaluation_dataset.sha256 == dataset.sha256:
        errors["evaluation_dataset"] = [
            "This is the training data itself: a model is not measured on what it has seen."
        ]

    if errors:
        raise UserError(errors)


def _base_model_obstacle(base_model: BaseModel, dataset: Dataset) -> str:
    """Why `base_model` cannot be trained on `dataset`, or nothing."""
    if base_model.archived_at is not None or base_model.status != BaseModel.Status.READY:
        return f"{base_model.name} is not ready to be trained. Choose another base model."

    has_tool_calls = any(finding["kind"] == TOOL_CALLS for finding in dataset.findings)
    if has_tool_calls and not template_knows_tools(base_model.chat_template):
        return f"{NO_TOOLS} Choose another base model."

    if not base_model.path.is_dir():
        return f"The files of {base_model.name} are gone. Ask your operator, or add it again."

    return ""


def dataset_obstacle(dataset: Dataset, method: TrainingMethod) -> str:
    """Why `method` cannot train on `dataset`, or nothing."""
    if dataset.archived_at is not None:
        return f"{dataset.name} is archived."
    if dataset.status == Dataset.Status.CHECKING:
        return f"{dataset.name} is still being checked. Try again in a moment."
    if dataset.status != Dataset.Status.READY:
        return f"{dataset.name} cannot be used: {dataset.error}"

    if dataset.format not in method_formats(method):
        return (
            f"{method.name} cannot read the format of {dataset.name} ({dataset.format}). It "
            f"needs: {method.needs}"
        )

    if not dataset.path.is_file():
        return f"The file of {dataset.name} is gone. Upload it again."

    return ""


def _prepare_directory(run: TrainRun, weights: Path | None, branch: Origin | None) -> None:
    """The run directory with its spec. Inside the transaction: without a spec there is no train."""
    # A leftover of a database that was restored to an earlier state: these files belong to no
    # train.
    shutil.rmtree(run.directory, ignore_errors=True)
    run.directory.mkdir(parents=True, mode=0o700)

    try:
        start: Branch | None = None
        if weights is not None and branch is not None:
            start = branch_take(weights, branch, run.directory)

        adapter: StartAdapter | None = None
        if run.continue_adapter:
            adapter = adapter_take(run.base_model, run.directory)

        spec_write(run, spec_of(run, start, adapter))
    except BaseException:
        shutil.rmtree(run.directory, ignore_errors=True)
        raise


def spec_of(run: TrainRun, branch: Branch | None, adapter: StartAdapter | None) -> Spec:
    """What the engine is to do for `run`, which need not be saved."""
    evaluation_dataset = run.evaluation_dataset
    base_model = loaded_model(run)
    return Spec(
        run_id=run.pk or 0,
        attempt=run.attempt,
        name=run.name,
        method=run.method.slug,
        recipe=run.method.recipe,
        parameters=run.parameters,
        base_model_path=str(base_model.path),
        base_model_name=base_model.name,
        base_model_sha256=base_model.sha256,
        base_model_source=_hub_model(base_model),
        dataset=_data_file(run.dataset),
        evaluation_dataset=_data_file(evaluation_dataset) if evaluation_dataset else None,
        resources=resources_of(run.parameters, run.owner),
        program=_program(run.method),
        branch=branch,
        start_adapter=adapter,
        system_prompt=run.system_prompt,
        health=settings.HEALTH_THRESHOLDS,
    )


def _program(method: TrainingMethod) -> Program | None:
    if not method.is_custom:
        return None

    program = method.program
    return Program(program["interpreter"], str(located_path(program["script"])), program["sha256"])


def _hub_model(model: BaseModel) -> HubModel | None:
    """Where others find the base model, which those who load an adapter need."""
    if model.source != BaseModel.Source.HUB:
        return None

    hub_id, _, asked = model.reference.partition("@")
    return HubModel(hub_id, model.revision or asked)


def _data_file(dataset: Dataset) -> DataFile:
    return DataFile(
        path=str(dataset.path),
        sha256=dataset.sha256,
        file_type=dataset.file_type,
        format=dataset.format,
        column_map=dataset.column_map,
        cache=str(dataset.path.parent / "tokens"),
    )


def train_stop(*, run: TrainRun, by: User, discard: bool = False) -> TrainRun:
    """Ask for a stop: a waiting train is stopped at once, a running one saves first, unless
    `discard` ends it where it is. Asking twice is harmless, and the second time may add
    `discard`."""
    owner_check(run, by)
    # Again where the train has changed its status meanwhile.
    for _ in range(5):
        run.refresh_from_db()
        if run.status == Status.STOPPING and discard:
            TrainRun.objects.filter(pk=run.pk, status=Status.STOPPING).update(discards=True)
        if run.ended or run.status == Status.STOPPING:
            return run

        if run.status == Status.QUEUED:
            if train_withdraw(run):
                return run
        elif run.transition(Status.STOPPING, discards=discard):
            return run

    return run


def train_withdraw(run: TrainRun, **values: Any) -> bool:
    """Stop a train that waits, and write `values` with it. Asks nobody. Returns whether this caller
    did."""
    values |= {"finished_at": timezone.now(), "gathers_on": "", "gathers_until": None}
    if not run.transition(Status.STOPPED, **values):
        return False

    # Devices may have been kept for it.
    workers_notify()
    return True


def train_save(*, run: TrainRun, by: User) -> TrainRun:
    """Ask a running train for a checkpoint after its step. Raises UserError for a train that does
    not run, or that is a custom program, which decides itself when to save."""
    owner_check(run, by)

    if run.status != Status.RUNNING:
        raise UserError("Only a train that runs can save a checkpoint.", code="wrong_state")

    if run.method.is_custom:
        raise UserError(
            f"{run.method.name} is a custom program, which decides itself when to save.",
            code="wrong_state",
        )

    try:
        save_request(run.directory)
    except FileNotFoundError as error:
        raise UserError(
            "The train's folder is gone, so it cannot save.", code="wrong_state"
        ) from error

    return run


def train_update(
    *,
    run: TrainRun,
    by: User,
    name: str | None = None,
    notes: str | None = None,
    labels: Iterable[str] | None = None,
) -> TrainRun:
    """Change a train's name, notes or labels. What it was trained with never changes."""
    owner_check(run, by)
    values: dict[str, str] = {}

    if name is not None:
        values["name"] = clean_label(name, limit=120)
        if not values["name"]:
            raise UserError({"name": ["Give the train a name."]})

    if notes is not None:
        values["notes"] = clean_text(notes)
    if labels is not None:
        labels_set(run=run, by=by, labels=labels)

    if values:
        # Not save(): the supervisor writes other fields of this row at the same time.
        TrainRun.objects.filter(pk=run.pk).update(**values)
        run.refresh_from_db()

    return run


def train_delete(*, run: TrainRun, by: User) -> None:
    """Remove an ended train with its files. Raises UserError while it waits or runs, or is needed
    (in_use). What others have waiting for it is stopped."""
    deletion_check(run, by)
    directory = run.directory
    try:
        with transaction.atomic():
            rows = TrainRun.objects.filter(pk=run.pk)
            # Nobody resumes it, and nothing begins to wait for it, between these looks and its end.
            locked = rows.select_for_update(of=("self", "job")).first()
            if locked is None:
                return

            _ended_check(locked)
            if reason := needed_text(locked, by):
                raise UserError(reason, code="in_use")

            waiting_stop(locked, by)
            locked.delete()
    except ProtectedError as error:
        # Taken into use a moment ago.
        raise UserError(needed_text(run, by) or "This train is in use.", code="in_use") from error

    shutil.rmtree(directory, ignore_errors=True)


def _ended_check(run: TrainRun) -> None:
    if not run.ended:
        status = run.get_status_display().lower()
        raise UserError(f"This train is {status}. Stop it first.", code="wrong_state")
