"""What a train's parameters refer to besides base model and data: trained reward models, and the
files of reward functions."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from core.errors import UserError
from core.requests import integer_of
from engine.contract.rundir import MODEL, Resource
from engine.rewards.parameters import RewardChoice
from engine.rewards.registry import CUSTOM_PREFIX, REWARDS
from methods.rewards import function_resource
from training.models import TrainRun, TrainRunQuerySet

Reader = AbstractBaseUser | AnonymousUser


def reward_models(reader: Reader | None) -> TrainRunQuerySet:
    """Finished trains of reward models, newest first. `reader`: None for everybody's."""
    trains = TrainRun.objects.with_related()
    if reader is not None:
        trains = trains.visible_to(reader)

    finished = trains.filter(method__recipe="reward", status=TrainRun.Status.FINISHED)
    return finished.order_by("-pk")


def is_reward_model(run: TrainRun) -> bool:
    return run.method.recipe == "reward"


def scorers_named(parameters: dict[str, Any]) -> set[int]:
    """Ids of the trained reward models that a train's rewards name. parameters: as they were given,
    perhaps unchecked."""
    named: set[int | None] = set()
    choices = parameters.get("rewards")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and choice.get("function") == "reward_model":
            options = choice.get("parameters")
            model = options.get("model") if isinstance(options, dict) else None
            named.add(integer_of(str(model)))

    return {number for number in named if number is not None}


def resources_of(parameters: dict[str, Any], reader: Reader | None) -> dict[str, Resource]:
    """What the chosen rewards need, by the names that the engine looks for. Raises UserError
    {"rewards": [text]}."""
    resources: dict[str, Resource] = {}
    for number, choice in enumerate(parameters.get("rewards") or [], 1):
        function = choice["function"]
        if function.startswith(CUSTOM_PREFIX):
            resources |= function_resource(function)
        elif function == "reward_model":
            resources |= _reward_model(number, choice["parameters"]["model"], reader)
        elif obstacle := RewardChoice.model_validate(choice).reward().obstacle():
            raise UserError({"rewards": [f"{REWARDS[function].title}: {obstacle}"]})

    return resources


def _reward_model(number: int, train_id: int, reader: Reader | None) -> dict[str, Resource]:
    run = reward_models(reader).filter(pk=train_id).first()
    if run is None:
        message = f"Reward {number}: train #{train_id} is no finished reward model of yours."
        raise UserError({"rewards": [message]})

    folder = run.directory / MODEL
    is_adapter = (folder / "adapter_config.json").is_file()
    needed = [folder]
    if is_adapter:
        needed.append(run.base_model.path)

    if not all(path.is_dir() for path in needed):
        message = f"Reward {number}: the files of the reward model {run.name} are gone."
        raise UserError({"rewards": [message]})

    resource = Resource(
        str(folder),
        name=run.name,
        base_path=str(run.base_model.path) if is_adapter else "",
    )
    return {f"reward_model:{run.pk}": resource}
