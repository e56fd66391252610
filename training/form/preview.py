"""What a train would do, before anything is queued: every obstacle by field, and the plan where
there is one.

The form asks while somebody types, and the API offers the same. Nothing is written.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Any

from django.conf import settings

from core.errors import UserError
from datasets_app.models import Dataset
from methods.models import TrainingMethod
from methods.services import parameters_validate
from models_app.models import BaseModel
from training.models import TrainRun
from training.train.estimate import Estimator, device_name
from training.train.plan import Plan, disk_bytes, train_plan
from training.train.resources import resources_of
from training.train.services import ingredients_check
from training.work.queue import queue_state
from training.work.worker_state import WorkerState, worker_state


def train_preview(
    *,
    method: TrainingMethod,
    base_model: BaseModel | None,
    dataset: Dataset | None,
    evaluation_dataset: Dataset | None = None,
    parameters: dict[str, Any],
    state: WorkerState | None = None,
) -> dict[str, Any]:
    """{"ok", "errors": {field: [text]}, "warnings": {field: text}, "fixes", "plan", "disk", "time",
    "blank", "queue", "worker"}.

    "plan" is training.train.plan.Plan as a dict, None while errors stand in its way; "time" the seconds
    that similar trains suggest; "disk" in bytes."""
    state = state or worker_state()
    errors = _missing(base_model, dataset)
    resolved: dict[str, Any] | None = None

    if base_model is not None and dataset is not None:
        try:
            ingredients_check(
                method=method,
                base_model=base_model,
                dataset=dataset,
                evaluation_dataset=evaluation_dataset,
            )
        except UserError as error:
            errors |= error.fields

    try:
        resolved = parameters_validate(method, parameters, device=state.device_kind)
    except UserError as error:
        errors |= error.fields

    answer: dict[str, Any] = {
        "plan": None,
        "warnings": {},
        "fixes": {},
        "disk": None,
        "time": None,
        "blank": {},
    }

    if resolved is not None:
        answer["blank"] = _blanks(resolved)

    if not errors and base_model is not None and dataset is not None and resolved is not None:
        plan = train_plan(
            method=method,
            base_model=base_model,
            dataset=dataset,
            evaluation_dataset=evaluation_dataset,
            parameters=resolved,
        )

        errors |= {name: [text] for name, text in plan.errors.items()}
        errors |= _resource_errors(resolved)
        answer |= _planned(plan, method, base_model, dataset, resolved, device_name(state))

    return answer | {
        "ok": not errors,
        "errors": errors,
        "queue": _queue(),
        "worker": _worker(state),
    }


def _resource_errors(resolved: dict[str, Any]) -> dict[str, list[str]]:
    try:
        resources_of(resolved, None)
    except UserError as error:
        return error.fields

    return {}


def _missing(base_model: BaseModel | None, dataset: Dataset | None) -> dict[str, list[str]]:
    errors = {}
    if base_model is None:
        errors["base_model"] = ["Choose a base model."]
    if dataset is None:
        errors["dataset"] = ["Choose a dataset."]

    return errors


def _blanks(resolved: dict[str, Any]) -> dict[str, str]:
    """What parameters that were left blank stand for, where another one decides it."""
    if "lora_rank" not in resolved or resolved.get("lora_alpha") is not None:
        return {}

    return {"lora_alpha": str(2 * resolved["lora_rank"])}


def _planned(
    plan: Plan,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    resolved: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    details = plan.as_dict()
    needed, free = disk_bytes(base_model, resolved), shutil.disk_usage(settings.HOME).free
    return {
        "warnings": details.pop("warnings"),
        "fixes": details.pop("fixes"),
        "plan": {name: value for name, value in details.items() if name != "errors"},
        "disk": {"needed_bytes": needed, "free_bytes": free},
        "time": time_guess(plan, method, base_model, dataset, resolved, device),
    }


def time_guess(
    plan: Plan,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    resolved: dict[str, Any],
    device: str,
) -> dict[str, Any] | None:
    """{"seconds", "error", "trains"}, see training.train.estimate."""
    rows = plan.steps * plan.effective_batch
    guess = Estimator(device).guess(method, base_model, resolved, rows, dataset.pk)
    return asdict(guess) if guess is not None else None


def _queue() -> dict[str, int | bool]:
    return {
        "waiting": TrainRun.objects.filter(status=TrainRun.Status.QUEUED).count(),
        "running": TrainRun.objects.active().count(),
        "paused": queue_state().paused,
    }


def _worker(state: WorkerState) -> dict[str, Any]:
    return {"ready": state.ready, "message": state.message, "device": state.device}
