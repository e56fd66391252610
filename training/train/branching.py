"""A new train that begins with the weights of another's checkpoint, with other values and a fresh
optimizer."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.store import runs_folder
from engine.contract.rundir import (
    MANIFEST,
    START,
    Branch,
    checkpoint_is_whole,
    checkpoint_manifest,
    checkpoint_seal,
    checkpoints,
)
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.models import TrainRun

# What belongs to the train that is left: where its optimizer was, and how far.
LEFT_BEHIND = (
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
    "trainer_state.json",
    MANIFEST,
)
# A request reads so much of a checkpoint; the engine reads all of it before it begins.
HASHED_BYTES = 1 << 30
# Values that give the weights their shape.
SHAPE = ("adapter", "lora_rank", "target_modules", "use_dora")


@dataclass(frozen=True)
class Origin:
    """Step `step` of `run`."""

    run: TrainRun
    step: int


def branch_check(
    origin: Origin, *, method: TrainingMethod, base_model: BaseModel, parameters: dict[str, Any]
) -> Path:
    """The checkpoint to begin with. Raises UserError by field where the weights would not fit."""
    errors: dict[str, list[str]] = {}

    if method.is_custom or origin.run.method.recipe != method.recipe:
        errors["method"] = [
            f"Train #{origin.run.pk} is of another kind: its weights do not fit {method.name}."
        ]

    if base_model.pk != origin.run.base_model_id:
        errors["base_model"] = [
            f"Train #{origin.run.pk} has another base model, {origin.run.base_model.name}."
        ]

    for name in SHAPE:
        there = origin.run.parameters.get(name)
        if parameters.get(name) != there and (
            name == "adapter" or parameters.get("adapter") == "lora"
        ):
            errors[name] = [
                f"Has to stay {there}, as in train #{origin.run.pk}, whose weights it begins with."
            ]

    folder = next(
        (folder for step, folder in checkpoints(origin.run.directory) if step == origin.step), None
    )
    if folder is None or not checkpoint_is_whole(folder, at_most=HASHED_BYTES):
        errors["branch_step"] = [
            f"Train #{origin.run.pk} has no whole checkpoint of step {origin.step:,} any more."
        ]

    if errors or folder is None:
        raise UserError(errors)

    return folder


def branch_prepare(checkpoint: Path) -> Path:
    """A sealed folder with the checkpoint's weights, to be moved into a run directory. The files
    are linked: the train that they are from may prune or delete its own."""
    folder = runs_folder() / f".branch-{uuid.uuid4().hex}"
    folder.mkdir(parents=True, mode=0o700)

    try:
        for path in sorted(checkpoint.iterdir()):
            if path.is_file() and path.name not in LEFT_BEHIND:
                _link(path, folder / path.name)

        # The same files: to read gigabytes of them again is not for a request to wait for.
        checkpoint_seal(folder, checkpoint_manifest(checkpoint))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

    return folder


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def branch_take(folder: Path, origin: Origin, directory: Path) -> Branch:
    """Move the prepared folder into a run directory."""
    folder.rename(directory / START)
    return Branch(path=str(directory / START), run_id=origin.run.pk, step=origin.step)
