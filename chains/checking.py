"""Everything that can be said against a chain before it is ordered: every stage is checked as a
train is, the later ones against the base model of the first, whose architecture they will have."""

from __future__ import annotations

from collections.abc import Sequence

from chains.adapters import named_as_a_stage, stage_parameters
from chains.advancing import train_values, trains_priority
from chains.gates import BOUNDS, gate_check
from chains.models import Chain, Stage
from core.errors import UserError
from core.store import require_disk
from jobs.devices.presence import worker_state
from methods.services import parameters_validate
from models_app.models import BaseModel
from training.train.launching import device_kind_for
from training.train.plan import disk_bytes
from training.train.services import TrainCheck, train_check

FEWEST_STAGES = 2
MOST_STAGES = 20

Errors = dict[str, list[str]]


def chain_check(chain: Chain, stages: Sequence[Stage]) -> None:
    """Raises UserError with every reason why this chain cannot be ordered, by stage and field:
    {"stages.1.dataset": ["Stage 2: …"]}, "" for the chain as a whole."""
    errors: Errors = {}
    if not FEWEST_STAGES <= len(stages) <= MOST_STAGES:
        errors["stages"] = [f"A chain has {FEWEST_STAGES} to {MOST_STAGES} stages."]

    for index, found in enumerate(stages_errors(chain, stages)):
        for name, texts in found.items():
            place = f"stages.{index}.{name}" if name else f"stages.{index}"
            errors[place] = [f"Stage {index + 1}: {text}" for text in texts]

    if errors:
        raise UserError(errors)

    require_disk(_disk_bytes(stages))


def stages_errors(chain: Chain, stages: Sequence[Stage]) -> list[Errors]:
    """What stands against each stage, by field."""
    base_model = stages[0].base_model if stages else None
    state = worker_state()
    return [
        _stage_errors(
            chain, stages, index, base_model, device_kind_for(stages[index].launcher, state)
        )
        for index in range(len(stages))
    ]


def _stage_errors(
    chain: Chain, stages: Sequence[Stage], index: int, base_model: BaseModel | None, device: str
) -> Errors:
    stage = stages[index]
    is_last = index == len(stages) - 1
    try:
        values = train_values(chain, stage, base_model)
        if index:
            values["parameters"] = stage_parameters(stages, index)
    except UserError as refusal:
        return dict(refusal.fields)

    check = train_check(
        device=device,
        priority=trains_priority(chain),
        # Of a later stage there is no adapter yet: its parameters say what it will be.
        continue_adapter=index == 0 and values["continue_adapter"],
        **{
            name: values[name]
            for name in (
                "owner",
                "method",
                "base_model",
                "dataset",
                "evaluation_dataset",
                "parameters",
                "system_prompt",
                "starts_after",
                "labels",
                "launcher",
            )
        },
    )

    if not is_last:
        _check_of_what_follows(check, stage)

    return named_as_a_stage(check.errors)


def _check_of_what_follows(check: TrainCheck, stage: Stage) -> None:
    """What has to be so because another stage follows: a model can be made of it, and its gate can
    be asked."""
    assert stage.method is not None
    method = stage.method
    if method.is_custom:
        reason = (
            "is a custom program, whose result is not known to be a model. It can only be last."
        )
        check.refuse(UserError({"method": [f"{method.name} {reason}"]}))
    elif method.recipe == "reward":
        reason = "makes a model that scores answers and writes none. It can only be last."
        check.refuse(UserError({"method": [f"{method.name} {reason}"]}))

    with check.collecting():
        gate_check(stage, method, check.plan.eval_rows if check.plan is not None else None)


def _disk_bytes(stages: Sequence[Stage]) -> int:
    """What the whole chain writes: its trains, and a model between each two."""
    base_model = stages[0].base_model
    state = worker_state()
    assert base_model is not None
    total = base_model.size_bytes * (len(stages) - 1)

    for index, stage in enumerate(stages):
        assert stage.method is not None
        given = stage_parameters(stages, index)
        device = device_kind_for(stage.launcher, state)
        total += disk_bytes(base_model, parameters_validate(stage.method, given, device=device))

    return total


def gate_clean(stage: Stage) -> None:
    """Forget the metric and value that a gate does not look at."""
    if stage.gate not in BOUNDS:
        stage.gate_metric = ""
        stage.gate_value = None
