"""The adapter of a trained model: kept beside the merged weights, so that it can be exported and
carried on when the train that made it is gone.

It appears by a rename, whole or not at all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from core.errors import UserError
from core.store import require_disk, runs_folder
from engine.contract.rundir import CHECKPOINTS, MODEL, checkpoint_is_whole
from models_app.models import ADAPTER_WEIGHTS, BaseModel

ADAPTER_CONFIG = "adapter_config.json"

logger = logging.getLogger("deepextension.models")


def weights_folder(model: BaseModel) -> Path:
    """Where the train of that model has what was trained: its result or a checkpoint. It may be
    gone."""
    origin = model.trained_from
    run = runs_folder() / str(origin["train"])
    if origin["step"]:
        return run / CHECKPOINTS / f"checkpoint-{origin['step']}"

    return run / MODEL


def adapter_base(model: BaseModel) -> BaseModel | None:
    """The model that the kept adapter belongs on. It is the parent, unless the train carried the
    parent's adapter on: then it is what that adapter belongs on."""
    base = model.parent
    while base is not None and model.trained_from.get("continue_adapter"):
        model, base = base, base.parent

    return base


def ancestors_load(models: Sequence[BaseModel]) -> None:
    """Load what these models were trained from, and that again, as adapter_base follows it: one
    query a generation. The parents of `models` are there already."""
    known = {model.pk: model for model in models}
    generation = [model.parent for model in models if model.parent is not None]

    while generation:
        wanted = {row.parent_id for row in generation if row.parent_id is not None}
        found = BaseModel.objects.in_bulk(wanted - known.keys())
        known |= found
        for row in generation:
            if row.parent_id is not None:
                row.parent = known[row.parent_id]

        generation = list(found.values())


def adapter_copy(weights: Path, target: Path) -> bool:
    """Copy the adapter in the folder `weights` into the new folder `target`. Returns whether there
    is one; a model that was trained whole has none. Raises UserError for a full disk."""
    files = [weights / ADAPTER_WEIGHTS, weights / ADAPTER_CONFIG]
    if not all(path.is_file() for path in files):
        return False

    require_disk(sum(path.stat().st_size for path in files))
    unfinished = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)

    try:
        for path in files:
            shutil.copyfile(path, unfinished / path.name)

        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise

    return True


def adapter_keep(model: BaseModel) -> str:
    """See that the adapter of a trained model is kept. Returns why it is not, or nothing.

    A model of a version that kept none takes it from its train, as long as that is there. Raises
    UserError for a full disk."""
    if not model.is_trained:
        return f"{model.title} was not trained here, so it has no adapter."
    if model.has_adapter:
        return ""

    weights = weights_folder(model)
    step = model.trained_from["step"]
    if step and weights.is_dir() and not checkpoint_is_whole(weights):
        return f"The checkpoint of step {step:,} is cut or damaged, and with it the adapter."
    if adapter_copy(weights, model.adapter_path):
        return ""

    # Written with the model itself since adapters are kept.
    if model.trained_path.is_dir() or weights.is_dir():
        return f"{model.title} was trained whole, so it has no adapter."

    return (
        f"{model.title} was made before adapters were kept, and its train is gone: its adapter is "
        "gone too."
    )


def adapters_keep() -> None:
    """Keep the adapters of models that were made before adapters were kept, while their trains are
    there."""
    for model in BaseModel.objects.filter(
        source=BaseModel.Source.TRAIN, status=BaseModel.Status.READY
    ):
        weights = weights_folder(model)
        # Before the checkpoint is read, which takes long: this is asked again and again.
        if model.has_adapter or not (weights / ADAPTER_WEIGHTS).is_file():
            continue

        try:
            adapter_keep(model)
        except (OSError, UserError) as error:
            logger.warning("the adapter of model %s cannot be kept: %s", model.pk, error)
