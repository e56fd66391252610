"""A new train that begins with the weights of another's checkpoint, with other values and a fresh
optimizer."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from functools import lru_cache
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
    if folder is None or not _is_whole(folder):
        errors["branch_step"] = [
            f"Train #{origin.run.pk} has no whole checkpoint of step {origin.step:,} any more."
        ]

    if errors or folder is None:
        raise UserError(errors)

    return folder


def _is_whole(checkpoint: Path) -> bool:
    """Whether the checkpoint can be copied. Its files are read once: the form asks while somebody
    types."""
    try:
        files = [(path.name, path.stat()) for path in sorted(checkpoint.iterdir())]
    except OSError:
        return False

    return _read_and_whole(
        checkpoint, tuple((name, status.st_size, status.st_mtime_ns) for name, status in files)
    )


@lru_cache(maxsize=64)
def _read_and_whole(checkpoint: Path, files: tuple[tuple[str, int, int], ...]) -> bool:
    """`files`: (name, bytes, nanoseconds of the last change), by which a changed file is read
    again."""
    return checkpoint_is_whole(checkpoint, at_most=HASHED_BYTES)


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
