"""What a train's parameters name besides base model and data: trained reward models, and reward
functions' files."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from core.errors import UserError
from engine.contract.rundir import MODEL, Resource
from engine.rewards.parameters import RewardChoice
from engine.rewards.registry import CUSTOM_PREFIX, REWARDS
from methods.rewards import function_resource
from training.models import TrainRun, TrainRunQuerySet

Reader = AbstractBaseUser | AnonymousUser


def reward_models(reader: Reader | None) -> TrainRunQuerySet:
    """Finished trains that made a reward model, newest first. `reader`: None for all of them."""
    trains = (
        TrainRun.objects.with_related()
        if reader is None
        else TrainRun.objects.visible_to(reader).with_related()
    )

    return trains.filter(method__recipe="reward", status=TrainRun.Status.FINISHED).order_by("-pk")


def resources_of(parameters: dict[str, Any], reader: Reader | None) -> dict[str, Resource]:
    """What the chosen rewards need, by the names that the engine looks for. Raises UserError
    {"rewards": [text]}."""
    found: dict[str, Resource] = {}
    for number, choice in enumerate(parameters.get("rewards") or [], 1):
        function = choice["function"]
        if function.startswith(CUSTOM_PREFIX):
            found |= function_resource(function)
        elif function == "reward_model":
            found |= _reward_model(number, choice["parameters"]["model"], reader)
        elif obstacle := RewardChoice.model_validate(choice).reward().obstacle():
            raise UserError({"rewards": [f"{REWARDS[function].title}: {obstacle}"]})

    return found


def _reward_model(number: int, train_id: int, reader: Reader | None) -> dict[str, Resource]:
    run = reward_models(reader).filter(pk=train_id).first()
    if run is None:
        raise UserError(
            {
                "rewards": [
                    f"Reward {number}: train #{train_id} is no finished reward model of yours."
                ]
            }
        )

    folder = run.directory / MODEL
    is_adapter = (folder / "adapter_config.json").is_file()
    if not folder.is_dir() or (is_adapter and not run.base_model.path.is_dir()):
        raise UserError(
            {"rewards": [f"Reward {number}: the files of the reward model {run.name} are gone."]}
        )

    base_path = str(run.base_model.path) if is_adapter else ""
    return {f"reward_model:{run.pk}": Resource(str(folder), name=run.name, base_path=base_path)}
