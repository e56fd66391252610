"""Merging: what a train learned becomes a model, on which further trains can build."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db import transaction
from django.db.models import QuerySet

from core.errors import UserError
from core.ownership import owner_check
from core.store import require_disk
from engine.contract.rundir import MODEL, checkpoint_is_whole, checkpoints
from models_app.models import BaseModel
from models_app.services import model_add_trained
from training.models import TrainRun

PRECISIONS = {
    "auto": "Automatic: fp16 where the range allows, else bf16; fp32 for a base model in fp32",
    "fp16": "fp16",
    "bf16": "bf16",
    "fp32": "fp32: exact, twice the size",
}


def merge_obstacle(run: TrainRun) -> str:
    """Why no model can be made of this train, or nothing."""
    if not run.ended:
        return "This train has not ended yet."

    if run.method.is_custom:
        return (
            f"{run.method.name} is a custom program, whose result is not known to be a model of "
            "this kind."
        )

    if run.method.recipe == "reward":
        return (
            "A reward model scores answers and writes none. Choose it as a reward of GRPO or PPO."
        )

    if not (run.directory / MODEL).is_dir() and not merge_steps(run):
        return "This train left no model and no whole checkpoint."

    return ""


def merge_steps(run: TrainRun) -> list[int]:
    """Steps of complete checkpoints, the newest first. Sizes of their files are compared, their
    contents are not read."""
    return [
        step
        for step, folder in checkpoints(run.directory)
        if checkpoint_is_whole(folder, hashes=False)
    ]


def models_of(run: TrainRun, reader: AbstractBaseUser | AnonymousUser) -> QuerySet[BaseModel]:
    """The models that were made of this train, the newest first."""
    merged = BaseModel.objects.visible_to(reader).filter(source=BaseModel.Source.TRAIN)
    return merged.filter(trained_from__train=run.pk, archived_at=None).order_by("-pk")


def train_merge(
    *,
    run: TrainRun,
    by: User,
    name: str = "",
    version: str = "",
    checkpoint: int | None = None,
    precision: str = "auto",
) -> BaseModel:
    """Add what the train learned to the models, in the background; it belongs to the train's owner.

    name, version: the train's name and its next version where they are blank. `checkpoint`: the
    step of a kept one; None for the train's result. Raises UserError: by field,
    with code wrong_state where the train left nothing, duplicate where the same model is there
    already."""
    owner_check(run, by)

    if obstacle := merge_obstacle(run):
        raise UserError(obstacle, code="wrong_state")
    if precision not in PRECISIONS:
        raise UserError({"precision": [f"Choose one of {', '.join(PRECISIONS)}."]})
    if checkpoint is not None and checkpoint not in merge_steps(run):
        raise UserError({"checkpoint": [f"There is no whole checkpoint of step {checkpoint:,}."]})

    if checkpoint is None and not (run.directory / MODEL).is_dir():
        raise UserError(
            {"checkpoint": ["This train left no model. Choose one of its checkpoints."]}
        )

    require_disk(run.base_model.size_bytes)

    with transaction.atomic():
        # Two requests at once create one model.
        TrainRun.objects.select_for_update().get(pk=run.pk)
        return model_add_trained(
            owner=run.owner,
            name=name,
            version=version,
            licence=run.base_model.licence,
            trained_from={
                "train": run.pk,
                "name": run.name,
                "method": run.method.name,
                "step": checkpoint or 0,
                "precision": precision,
                "base_model": {"id": run.base_model_id, "name": run.base_model.name},
                "continue_adapter": run.continue_adapter,
                "datasets": _datasets(run),
            },
        )


def _datasets(run: TrainRun) -> dict[str, dict[str, Any]]:
    """What it learned from and was measured with, each with its version and licence."""
    datasets = {"training": run.dataset, "evaluation": run.evaluation_dataset}
    return {
        role: {"id": dataset.pk, "title": dataset.title, "licence": dataset.licence}
        for role, dataset in datasets.items()
        if dataset is not None
    }
