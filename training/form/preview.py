"""What a train would do, before anything is queued: every obstacle by field, and the plan where
there is one.

The form asks while somebody types, and the API offers the same. Nothing is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User

from core.text import counted
from datasets_app.models import Dataset
from jobs.devices.launchers import ANYWHERE
from jobs.devices.presence import WorkerState, worker_state
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.forecast.step_time import ERROR_OF_A_STEP, seconds_by_step
from training.models import TrainRun
from training.train.branching import Origin
from training.train.estimate import Estimator, device_name
from training.train.launching import device_kind_for, launcher_warning
from training.train.plan import Plan, disk_bytes
from training.train.services import TrainCheck, train_check
from training.work.queue import may_manage_queue, queue_state


def train_preview(
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
    launcher: str = ANYWHERE,
    state: WorkerState | None = None,
    check: TrainCheck | None = None,
) -> dict[str, Any]:
    """{"ok", "errors": {field: [text]}, "warnings": {field: text}, "fixes", "plan", "disk", "time",
    "forecast", "blank", "queue", "worker"}. check: what the train was checked to already.

    "errors" are those of training.train.services.train_check, so that `ok` is what the start says.
    "plan" is training.train.plan.Plan as a dict, None while errors stand in its way; "time" the
    seconds that similar trains suggest; "disk" in bytes; "forecast" is
    training.forecast.verdicts.Forecast as a dict, None where there is no plan."""
    state = state or worker_state()
    check = check or train_check(
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
        device=device_kind_for(launcher, state),
    )

    answer: dict[str, Any] = {
        "ok": not check.errors,
        "errors": check.errors,
        "warnings": {},
        "fixes": {},
        "plan": None,
        "disk": None,
        "time": None,
        "forecast": None,
        "blank": {},
        "queue": _queue(),
        "worker": _worker(state, launcher),
    }

    if check.forecast is not None:
        answer["forecast"] = check.forecast.as_dict() | {
            "may_start_anyway": check.forecast.cannot_fit and may_manage_queue(owner)
        }

    if check.parameters is not None:
        answer["blank"] = _blanks(check.parameters)

    if (
        check.plan is not None
        and check.parameters is not None
        and base_model is not None
        and dataset is not None
    ):
        answer |= _planned(
            check.plan,
            method,
            base_model,
            dataset,
            check.parameters,
            device_name(state, launcher),
            system_prompt,
        )

    if waits_for := launcher_warning(launcher, state):
        answer["warnings"]["launcher"] = waits_for

    return answer


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
    system_prompt: str = "",
) -> dict[str, Any]:
    details = plan.as_dict()
    warnings = details.pop("warnings")
    fixes = details.pop("fixes")
    # They stand among all the errors.
    details.pop("errors")

    return {
        "warnings": warnings,
        "fixes": fixes,
        "plan": details,
        "disk": {
            "needed_bytes": disk_bytes(base_model, resolved),
            "free_bytes": shutil.disk_usage(settings.HOME).free,
        },
        "time": time_guess(plan, method, base_model, dataset, resolved, device, system_prompt),
    }


def time_guess(
    plan: Plan,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    resolved: dict[str, Any],
    device: str,
    system_prompt: str = "",
) -> dict[str, Any] | None:
    """{"seconds", "error", "trains"}, see training.train.estimate, and "basis", in words: similar trains,
    or else one step that was tried."""
    rows = plan.steps * plan.effective_batch
    guess = Estimator(device).guess(method, base_model, resolved, rows, dataset.pk)
    if guess is not None:
        return asdict(guess) | {"basis": f"based on {counted(guess.trains, 'similar train')}"}

    seconds = seconds_by_step(
        method=method,
        base_model=base_model,
        dataset=dataset,
        parameters=resolved,
        system_prompt=system_prompt,
        steps=plan.steps,
        device=device,
    )
    if seconds is None:
        return None

    error = ERROR_OF_A_STEP * seconds
    return {"seconds": seconds, "error": error, "trains": 0, "basis": "measured by one step"}


def _queue() -> dict[str, int | bool]:
    return {
        "waiting": TrainRun.objects.filter(status=TrainRun.Status.QUEUED).count(),
        "running": TrainRun.objects.active().count(),
        "paused": queue_state().paused,
    }


def _worker(state: WorkerState, launcher: str) -> dict[str, Any]:
    """Of those that could run it."""
    absence = launcher_warning(launcher, state)
    return {
        "ready": state.ready and not absence,
        "message": absence or state.message,
        "device": state.device_for(launcher),
    }
