"""A train that carries its base model's adapter on: the same adapter under another method, or the
same one, in place of a new adapter on the merged weights."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User

from core.errors import UserError
from core.ownership import may_see
from engine.contract.rundir import START_ADAPTER, StartAdapter, checkpoint_seal
from engine.schema.registry import carry_on_obstacle
from methods.models import TrainingMethod
from methods.schema import ALL_LINEAR, Field, method_fields
from models_app.adapters import ADAPTER_CONFIG, adapter_base, adapter_copy
from models_app.models import BaseModel
from training.models import TrainRun

# What the adapter's own file decides: {parameter: its name in adapter_config.json}.
GIVEN = {
    "lora_rank": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
TARGETS = "target_modules"
GIVEN_PARAMETERS = (*GIVEN, TARGETS)
# The layers of experts, which an adapter names as blocks.
EXPERT_LAYERS = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}


def adapter_parameters(model: BaseModel) -> dict[str, Any]:
    """What the kept adapter of that model says of the parameters GIVEN_PARAMETERS. Raises UserError
    for a file that cannot be read."""
    path = model.adapter_path / ADAPTER_CONFIG
    try:
        config = _config_read(path, path.stat().st_mtime_ns)
        values = {name: config[key] for name, key in GIVEN.items()}
        targets = set(config[TARGETS])
        has_blocks = bool(config.get("target_parameters"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            {"continue_adapter": [f"The adapter of {model.title} is damaged and cannot be read."]}
        ) from error

    values[TARGETS] = _targets(targets, has_blocks, model.linear_modules)
    return values


@lru_cache(maxsize=4096)
def _config_read(path: Path, modified_ns: int) -> dict[str, Any]:
    """The file as it was at `modified_ns`. The form of a new train asks for those of all models
    that are offered, each time that it opens."""
    config: dict[str, Any] = json.loads(path.read_text())
    return config


def _targets(names: set[str], has_blocks: bool, layers: list[str]) -> str | list[str]:
    """All linear layers, or names among `layers`, the base model's. names: of adapted layers, each
    perhaps with its whole path."""
    adapted = {name.rpartition(".")[2] for name in names}
    if has_blocks:
        adapted |= EXPERT_LAYERS

    chosen = [name for name in layers if name in adapted]
    return chosen if chosen and len(chosen) < len(layers) else ALL_LINEAR


def carry_on_refusal(model: BaseModel, reader: User) -> str:
    """Why there is no adapter of that model that `reader` can carry on, or nothing."""
    if not model.is_trained:
        return f"{model.title} was not trained here, so it has no adapter to continue."

    base = adapter_base(model)
    if not model.has_adapter or base is None:
        return f"{model.title} keeps no adapter, so there is none to continue."
    if not may_see(base, reader):
        return (
            f"The adapter of {model.title} belongs on a model that you cannot see. Train on the "
            "merged weights."
        )
    if base.status != BaseModel.Status.READY or not base.path.is_dir():
        return (
            f"The adapter of {model.title} belongs on {base.title}, whose files are gone. Train on "
            "the merged weights."
        )

    return ""


def carried_parameters(
    method: TrainingMethod, model: BaseModel, parameters: dict[str, Any], reader: User
) -> dict[str, Any]:
    """`parameters` with those that the adapter gives. Raises UserError by field where `reader`
    cannot carry the adapter on, and where parameters name other values than its own."""
    if refusal := carry_on_refusal(model, reader):
        raise UserError({"continue_adapter": [refusal]})

    carry_on_check(method, parameters)
    fields = method_fields(method)
    given = adapter_parameters(model)
    errors = {}

    for name, value in given.items():
        # Alpha may be left blank: what stands for it is the adapter's.
        wanted = parameters.get(name)
        if wanted is None or _same(wanted, value):
            continue

        shown = fields[name].shown(value)
        errors[name] = [
            f"The adapter of {model.title} has {shown}, and is continued as it is. Leave this out."
        ]

    if errors:
        raise UserError(errors)

    return parameters | given


def carry_on_check(method: TrainingMethod, parameters: dict[str, Any]) -> None:
    """Raises UserError by field where a train of the method with these parameters carries no
    adapter on."""
    if refusal := carry_on_obstacle(method.recipe, "lora"):
        raise UserError({"continue_adapter": [refusal]})

    what = method_fields(method)["adapter"]
    adapter = what.default if what.fixed else parameters.get("adapter", what.default)
    if refusal := carry_on_obstacle(method.recipe, adapter):
        raise UserError({"continue_adapter" if what.fixed else "adapter": [refusal]})


def _same(wanted: Any, value: Any) -> bool:
    """Layers may be named in any order."""
    if isinstance(wanted, list) and isinstance(value, list):
        return sorted(map(str, wanted)) == sorted(value)

    return bool(wanted == value)


def adapter_text(model: BaseModel, fields: dict[str, Field], reader: User) -> str:
    """What the adapter of that model gives, in a line: Rank 16, Alpha 32 …; nothing where there is
    none that `reader` can carry on. fields: of the method, none where it carries none on."""
    if not fields or carry_on_refusal(model, reader):
        return ""

    try:
        given = adapter_parameters(model)
    except UserError:
        return ""

    return given_text(given, fields)


def given_text(given: dict[str, Any], fields: dict[str, Field]) -> str:
    """Values of GIVEN_PARAMETERS in a line: Rank 16, Alpha 32 …"""
    parts = []
    for name, value in given.items():
        if name in fields and value is not False:
            field = fields[name]
            parts.append(field.title if value is True else f"{field.title} {field.shown(value)}")

    return ", ".join(parts)


def can_carry_on(method: TrainingMethod, fields: dict[str, Field]) -> bool:
    """Whether trains of the method can carry an adapter on at all."""
    if carry_on_obstacle(method.recipe, "lora"):
        return False

    adapter = fields["adapter"]
    return not adapter.fixed or bool(adapter.default == "lora")


def loaded_model(run: TrainRun) -> BaseModel:
    """The model whose files the train loads: its base model, or what an adapter that it carries on
    belongs on."""
    base = adapter_base(run.base_model) if run.continue_adapter else None
    return base or run.base_model


def adapter_take(model: BaseModel, directory: Path) -> StartAdapter:
    """Copy the model's adapter into a run directory, which can then be repeated without the model.
    Raises UserError where it is gone, and for a full disk."""
    folder = directory / START_ADAPTER
    if not adapter_copy(model.adapter_path, folder):
        raise UserError({"continue_adapter": [f"The adapter of {model.title} is gone."]})

    checkpoint_seal(folder)
    return StartAdapter(path=str(folder), model_name=model.title)
