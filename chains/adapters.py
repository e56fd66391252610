"""Stages that carry the adapter of the stage before them on: what that adapter will be is known
before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chains.models import Stage
from core.errors import UserError
from jobs.devices.presence import worker_state
from methods.schema import Field
from methods.services import parameters_validate
from training.train.carrying_on import (
    GIVEN_PARAMETERS,
    carried_parameters,
    carry_on_check,
    given_text,
)
from training.train.launching import device_kind_for

LORA = "lora"


def stage_parameters(stages: Sequence[Stage], index: int) -> dict[str, Any]:
    """The parameters of a stage as they were given, with what the adapter gives where the stage
    carries one on. Raises UserError by field where there is none to carry on, or the parameters
    name other values than it has."""
    stage = stages[index]
    parameters: dict[str, Any] = stage.parameters
    if stage.start != Stage.Start.ADAPTER:
        return parameters
    if index == 0:
        return _of_the_base_model(stage)

    adapter = stage_adapter(stages, index - 1)
    if stage.method is not None:
        try:
            carry_on_check(stage.method, parameters)
        except UserError as refusal:
            raise UserError({"start": [refusal.message]}) from refusal

    named = {name: parameters[name] for name in adapter if parameters.get(name) is not None}
    errors = {
        name: [f"The adapter of stage {index} has {adapter[name]}, and is continued as it is."]
        for name, value in named.items()
        if value != adapter[name]
    }
    if errors:
        raise UserError(errors)

    return parameters | adapter


def _of_the_base_model(stage: Stage) -> dict[str, Any]:
    """The parameters of a first stage that carries its base model's adapter on."""
    owner = stage.chain.owner
    if stage.method is None or stage.base_model is None or owner is None:
        raise UserError({"start": ["There is no adapter to continue."]})

    try:
        return carried_parameters(stage.method, stage.base_model, stage.parameters, owner)
    except UserError as refusal:
        raise UserError(named_as_a_stage(refusal.fields)) from refusal


def named_as_a_stage(fields: dict[str, list[str]]) -> dict[str, list[str]]:
    """Errors of a train by the fields of a stage, which says differently how it starts."""
    return {"start" if name == "continue_adapter" else name: fields[name] for name in fields}


def stage_adapter(stages: Sequence[Stage], index: int) -> dict[str, Any]:
    """Rank, targets and all else of the adapter that a stage will leave. Raises UserError where it
    leaves none."""
    stage = stages[index]
    if stage.method is None or stage.method.is_custom:
        raise UserError({"start": [f"Stage {index + 1} leaves no adapter to continue."]})

    try:
        given = stage_parameters(stages, index)
        whole = parameters_validate(
            stage.method, given, device=device_kind_for(stage.launcher, worker_state())
        )
    except UserError as refusal:
        text = f"Stage {index + 1}, whose adapter is to be continued, has errors."
        raise UserError({"start": [text]}) from refusal

    if whole.get("adapter") != LORA:
        text = f"Stage {index + 1} trains all weights and leaves no adapter to continue."
        raise UserError({"start": [text]})

    adapter = {name: whole[name] for name in GIVEN_PARAMETERS if name in whole}
    if adapter.get("lora_alpha") is None:
        # What a blank one stands for.
        adapter["lora_alpha"] = 2 * adapter["lora_rank"]

    return adapter


def adapter_words(stages: Sequence[Stage], index: int, fields: dict[str, Field]) -> str:
    """The adapter that a stage will leave, in a line; "" where it leaves none. fields: of the
    method that carries it on."""
    try:
        return given_text(stage_adapter(stages, index), fields)
    except UserError:
        return ""
