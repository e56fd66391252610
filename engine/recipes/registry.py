"""The table of recipes. A recipe is a folder here: parameters.py (no training library), recipe.py
(all of them)."""

from __future__ import annotations

from dataclasses import dataclass

from engine.options import more_options
from engine.parameters import TrainParameters
from engine.recipes.dpo.parameters import DpoParameters
from engine.recipes.grpo.parameters import GrpoParameters
from engine.recipes.kto.parameters import KtoParameters
from engine.recipes.ppo.parameters import PpoParameters
from engine.recipes.reward.parameters import RewardParameters
from engine.recipes.sft.parameters import SftParameters

__all__ = ["LOSS", "RECIPES", "REWARD", "Objective", "Recipe", "more_options"]

CONVERSATIONS = ("messages", "conversations", "prompt-completion", "alpaca", "question-answer")


@dataclass(frozen=True)
class Objective:
    """The metric by which a train is judged: what lists show, and which checkpoint is the best
    one."""

    title: str
    train: str
    evaluation: str
    higher_is_better: bool = False


LOSS = Objective("Loss", "loss", "eval_loss")
REWARD = Objective("Reward", "reward", "eval_reward", higher_is_better=True)


@dataclass(frozen=True)
class Recipe:
    """`formats`: slugs of engine.formats that it can learn from."""

    name: str
    title: str
    parameters: type[TrainParameters]
    formats: tuple[str, ...]
    objective: Objective = LOSS


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("sft", "SFT (supervised fine-tuning)", SftParameters, (*CONVERSATIONS, "text")),
        Recipe("dpo", "DPO (direct preference optimisation)", DpoParameters, ("preference",)),
        Recipe("kto", "KTO (learning from rated answers)", KtoParameters, ("kto", "preference")),
        Recipe("reward", "Reward model", RewardParameters, ("preference",)),
        Recipe(
            "grpo",
            "GRPO (group relative policy optimisation)",
            GrpoParameters,
            (*CONVERSATIONS, "prompt-only", "preference"),
            REWARD,
        ),
        Recipe(
            "ppo",
            "PPO (proximal policy optimisation)",
            PpoParameters,
            (*CONVERSATIONS, "prompt-only", "preference"),
            REWARD,
        ),
    )
}
