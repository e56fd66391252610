"""What can be asked for answers: models, trains with their checkpoints, and exports.

Each is the weights of a base model, with an adapter or without. All that lie on the same weights are
answered by one model server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Prefetch

from core.errors import UserError
from core.ownership import may_see
from engine.contract.rundir import CHECKPOINTS, MANIFEST, MODEL, checkpoint_is_whole, checkpoints
from engine.schema.registry import RECIPES
from exports.models import Export
from models_app.adapters import ADAPTER_CONFIG, adapter_base, ancestors_load
from models_app.models import ADAPTER_WEIGHTS, BaseModel
from training.models import Checkpoint, TrainRun
from training.train.carrying_on import loaded_model

_KEY = re.compile(r"(model|train|export)-(\d{1,18})(?:-step-(\d{1,18}))?", re.ASCII)

# A menu has the newest trains, and of each the newest checkpoints.
MOST_TRAINS = 200
MOST_CHECKPOINTS = 10
# How transformers names what gives scores or labels and writes no text.
SCORERS = ("ForSequenceClassification", "ForTokenClassification", "RewardModel")
SCORES_ONLY = "It is a scoring model: it gives scores and writes no text."


@dataclass(frozen=True)
class Target:
    """kind: "model", "train" or "export". pk: of its row. step: of a train's checkpoint; None for
    what the train ended with, and while it runs for its newest checkpoint."""

    kind: str
    pk: int
    step: int | None = None

    @property
    def key(self) -> str:
        """ "model-5", "train-12", "train-12-step-200", "export-3": in addresses, forms and rows."""
        step = "" if self.step is None else f"-step-{self.step}"
        return f"{self.kind}-{self.pk}{step}"

    @classmethod
    def parse(cls, key: str) -> Target:
        """Raises UserError (404) for what is no key."""
        match = _KEY.fullmatch(key)
        if match is None or (match[3] and match[1] != "train"):
            raise not_there()

        return cls(match[1], int(match[2]), int(match[3]) if match[3] else None)


@dataclass(frozen=True)
class Placement:
    """Where a target's weights are: what the gateway needs to know of it.

    base_key: names the weights, such as "model-5"; targets with the same one share a model server.
    base_path: a folder of safetensors, or a GGUF file. adapter_key, adapter_path: "" for none; a
    peft folder or a GGUF file. reference_path: what the trained model answered, "" where nobody
    wrote that down. size_bytes: of the base's weights.
    """

    base_key: str
    base_path: str
    adapter_key: str = ""
    adapter_path: str = ""
    reference_path: str = ""
    size_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Served:
    """A target that somebody may ask, with its title ("Help desk · v2", "Train 12, step 200") and
    the title of the model below it. live: whether it is a train that still runs. base: the key of
    the target that is the untuned model below it, "" where it is that itself."""

    target: Target
    title: str
    base_title: str
    placement: Placement
    live: bool = False
    base: str = ""


@dataclass(frozen=True)
class Choice:
    """One line of a menu. group: "Models", "Trains", "Exports". parent: key of the train whose
    checkpoint it is."""

    key: str
    title: str
    group: str
    parent: str = ""


def target_find(key: str, reader: User) -> Served:
    """Raises UserError: 404 where there is none that `reader` may see, 409 where it cannot answer
    (its files are gone, it is archived, it scores texts and writes none, it has no checkpoint
    yet), with the reason."""
    target = Target.parse(key)

    if target.kind == "model":
        return _model_served(target, reader)
    if target.kind == "train":
        return _train_served(target, reader)

    return _export_served(target, reader)


def targets_choices(reader: User) -> list[Choice]:
    """All that `reader` may ask now, models first, each group with the newest first."""
    return [*_model_choices(reader), *_train_choices(reader), *_export_choices(reader)]


def not_there() -> UserError:
    return UserError("There is no such model.", code="not_found", status=404)


def cannot_answer(reason: str) -> UserError:
    return UserError(reason, code="cannot_answer", status=409)


# Models


def _model_served(target: Target, reader: User) -> Served:
    models = BaseModel.objects.visible_to(reader).select_related("parent")
    model = models.filter(pk=target.pk).first()
    if model is None:
        raise not_there()
    if reason := _model_obstacle(model):
        raise cannot_answer(reason)

    below = adapter_base(model) if model.is_trained else None
    if below is None:
        return Served(target, model.title, model.title, _whole(target.key, model.path, model))

    untuned = _untuned(below, reader)
    reference = str(model.reference_path) if model.reference_path.is_file() else ""
    if model.has_adapter and not _model_obstacle(below):
        adapter = (target.key, str(model.adapter_path), reference)
        return Served(target, model.title, below.title, _placement(below, *adapter), base=untuned)

    # Its own weights: it was trained whole, or what its adapter lies on is gone.
    placement = _whole(target.key, model.path, model, reference)
    return Served(target, model.title, below.title, placement, base=untuned)


def _model_obstacle(model: BaseModel) -> str:
    """Why that model cannot be asked, or nothing."""
    if model.status != BaseModel.Status.READY:
        return f"{model.title} is not ready: {model.status_title.lower()}."
    if model.archived_at is not None:
        return f"{model.title} is archived."
    if _scores(model.architecture):
        return f"{model.title} cannot answer. {SCORES_ONLY}"
    if not model.path.is_dir():
        return f"The files of {model.title} are gone."

    return ""


def _scores(architecture: str) -> bool:
    return architecture.endswith(SCORERS)


def _untuned(model: BaseModel, reader: User) -> str:
    """The key of the model below a tuned one, where `reader` may ask that too."""
    if not may_see(model, reader) or _model_obstacle(model):
        return ""

    return Target("model", model.pk).key


def _placement(
    base: BaseModel, adapter_key: str = "", adapter_path: str = "", reference_path: str = ""
) -> Placement:
    """On that model, with an adapter."""
    return Placement(
        base_key=Target("model", base.pk).key,
        base_path=str(base.path),
        adapter_key=adapter_key,
        adapter_path=adapter_path,
        reference_path=reference_path,
        size_bytes=base.size_bytes,
    )


def _whole(key: str, folder: Path, sized_as: BaseModel, reference_path: str = "") -> Placement:
    """A model of its own, of about the size of `sized_as`."""
    return Placement(key, str(folder), "", "", reference_path, sized_as.size_bytes)


def _model_choices(reader: User) -> Iterator[Choice]:
    models = BaseModel.objects.visible_to(reader).offered().order_by("-pk")
    for model in models.only("pk", "name", "version", "architecture"):
        if not _scores(model.architecture):
            yield Choice(Target("model", model.pk).key, model.title, "Models")


# Trains


def _train_served(target: Target, reader: User) -> Served:
    rows = TrainRun.objects.visible_to(reader)
    run = rows.select_related("method", "base_model__parent").filter(pk=target.pk).first()
    if run is None:
        raise not_there()
    if not _writes_texts(run):
        raise cannot_answer(f"{run} cannot answer. {SCORES_ONLY}")

    step, folder = _trained_folder(run, target.step)
    below = loaded_model(run)
    title = _train_title(run, step)
    # What the newest checkpoint is changes: each has a name of its own.
    key = Target("train", run.pk, step).key
    untuned = _untuned(below, reader)

    if (folder / ADAPTER_CONFIG).is_file():
        if reason := _model_obstacle(below):
            raise cannot_answer(f"The adapter of {run} cannot be loaded. {reason}")

        placement = _placement(below, key, str(folder))
    else:
        placement = _whole(key, folder, below)

    return Served(target, title, below.title, placement, live=not run.ended, base=untuned)


def _writes_texts(run: TrainRun) -> bool:
    recipe = RECIPES.get(run.method.recipe)
    return recipe is None or not recipe.makes_scorer


def _trained_folder(run: TrainRun, step: int | None) -> tuple[int | None, Path]:
    """(step, folder) of what is asked: None for what the train ended with. Raises UserError where
    it is not there."""
    if step is not None:
        folder = run.directory / CHECKPOINTS / f"checkpoint-{step}"
        # Sizes alone: this is asked before each answer.
        if not checkpoint_is_whole(folder, hashes=False):
            raise cannot_answer(f"{run} has no whole checkpoint of step {step:,} any more.")

        return step, folder

    result = run.directory / MODEL
    if run.ended and result.is_dir():
        return None, result

    for newest, folder in checkpoints(run.directory):
        if checkpoint_is_whole(folder, hashes=False):
            return newest, folder

    if run.ended:
        raise cannot_answer(f"{run} left no model and no whole checkpoint.")

    raise cannot_answer(f"{run} has no checkpoint yet. Ask it when it has saved the first one.")


def _train_title(run: TrainRun, step: int | None = None) -> str:
    return f"{run}, step {step:,}" if step is not None else str(run)


def _train_choices(reader: User) -> Iterator[Choice]:
    newest = Checkpoint.objects.order_by("-step").only("run", "step")
    trains = TrainRun.objects.visible_to(reader).exclude(status=TrainRun.Status.QUEUED, step=0)
    trains = trains.select_related("method").prefetch_related(Prefetch("checkpoints", newest))

    for run in trains.order_by("-pk")[:MOST_TRAINS]:
        if not _writes_texts(run):
            continue

        steps = _kept_steps(run)
        has_result = run.ended and (run.directory / MODEL).is_dir()
        if not steps and not has_result:
            continue

        parent = Target("train", run.pk).key
        running = "" if run.ended else " (still training)"
        yield Choice(parent, f"{run}{running}", "Trains")
        for step in steps:
            yield Choice(
                Target("train", run.pk, step).key, _train_title(run, step), "Trains", parent
            )


def _kept_steps(run: TrainRun) -> list[int]:
    """Steps of its newest checkpoints that are on the disk."""
    steps = []
    for checkpoint in run.checkpoints.all():
        folder = run.directory / CHECKPOINTS / f"checkpoint-{checkpoint.step}"
        if (folder / MANIFEST).is_file():
            steps.append(checkpoint.step)
        if len(steps) == MOST_CHECKPOINTS:
            break

    return steps


# Exports


def _export_served(target: Target, reader: User) -> Served:
    exports = Export.objects.visible_to(reader).select_related("model__parent")
    export = exports.filter(pk=target.pk).first()
    if export is None:
        raise not_there()
    if export.status != Export.Status.READY:
        raise cannot_answer(f"{export} is not ready.")
    if export.model.archived_at is not None:
        raise cannot_answer(f"{export.model.title} is archived.")
    if export.written_format not in ASKED_FORMATS:
        raise cannot_answer(f"{export} cannot be asked here. Ask {export.model.title} itself.")

    file = _export_file(export)
    if file is None:
        raise cannot_answer(f"The files of {export} are gone.")

    title = f"{export.model.title} as {export.title}"
    below = adapter_base(export.model)
    untuned = _untuned(below, reader) if below is not None else ""
    if not export.is_adapter:
        size = export.size_bytes or export.model.size_bytes
        placement = Placement(target.key, str(file), size_bytes=size)
        return Served(target, title, (below or export.model).title, placement, base=untuned)

    if below is None or (reason := _model_obstacle(below)):
        gone = "The model below it is gone." if below is None else reason
        raise cannot_answer(f"The adapter of {export} cannot be loaded. {gone}")

    return Served(
        target, title, below.title, _placement(below, target.key, str(file)), base=untuned
    )


ASKED_FORMATS = (
    Export.Format.GGUF,
    Export.Format.GGUF_ADAPTER,
    Export.Format.ADAPTER,
    Export.Format.SAFETENSORS,
)


def _export_file(export: Export) -> Path | None:
    """The GGUF file, or the folder of other formats; None where it is gone."""
    if export.written_format in (Export.Format.GGUF, Export.Format.GGUF_ADAPTER):
        return next(iter(sorted(export.files_path.glob("*.gguf"))), None)

    weights = ADAPTER_WEIGHTS if export.is_adapter else "config.json"
    return export.files_path if (export.files_path / weights).is_file() else None


def _export_choices(reader: User) -> Iterator[Choice]:
    ready = Export.objects.visible_to(reader).filter(
        status=Export.Status.READY, model__archived_at=None
    )
    exports = [
        export
        for export in ready.select_related("model__parent")[:MOST_TRAINS]
        if export.written_format in ASKED_FORMATS
    ]
    ancestors_load([export.model for export in exports])

    for export in exports:
        if export.is_adapter and adapter_base(export.model) is None:
            continue

        title = f"{export.model.title} as {export.title}"
        yield Choice(Target("export", export.pk).key, title, "Exports")
