"""A new train that begins with the weights of another train's checkpoint, with other values and a
fresh optimizer."""

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

# Files of a checkpoint that a branch does not take: the state of the optimizer and the progress,
# those of several ranks too, and the weights as a split model alone reads them.
LEFT_BEHIND = (
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "rollouts*.safetensors",
    "pytorch_model_fsdp*",
    "trainer_state.json",
    MANIFEST,
)
# A request hashes at most so much of a checkpoint; the engine hashes all of it before it begins.
HASHED_BYTES = 1 << 30
# Values that determine which weights there are, and their shapes.
SHAPE = ("adapter", "lora_rank", "target_modules", "use_dora")


@dataclass(frozen=True)
class Origin:
    """Step `step` of `run`."""

    run: TrainRun
    step: int


def branch_check(
    origin: Origin,
    *,
    method: TrainingMethod,
    base_model: BaseModel,
    parameters: dict[str, Any],
    continue_adapter: bool = False,
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

    if continue_adapter != origin.run.continue_adapter:
        what = "has a new adapter" if continue_adapter else "continues its base model's adapter"
        errors["continue_adapter"] = [
            f"Train #{origin.run.pk} {what}, and a branch of it does the same: its weights belong "
            "on that base model."
        ]

    for name in SHAPE:
        matters = name == "adapter" or parameters.get("adapter") == "lora"
        value = origin.run.parameters.get(name)
        if matters and parameters.get(name) != value:
            errors[name] = [
                f"Has to stay {value}, as in train #{origin.run.pk}, whose weights it begins with."
            ]

    folder = dict(checkpoints(origin.run.directory)).get(origin.step)
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
    are hard links: the train that they come from may prune or delete its own."""
    folder = runs_folder() / f".branch-{uuid.uuid4().hex}"
    folder.mkdir(parents=True, mode=0o700)

    try:
        for path in sorted(checkpoint.iterdir()):
            if path.is_file() and not any(path.match(pattern) for pattern in LEFT_BEHIND):
                _link(path, folder / path.name)

        # The files are the same, and hashing gigabytes again would take too long for a request.
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
