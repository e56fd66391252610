"""The table of recipes. What a recipe's form asks is a module of its name here, without a training
library; what it does is the module of its name in engine.recipes."""

from __future__ import annotations

from dataclasses import dataclass

from engine.schema.dpo import DpoParameters
from engine.schema.grpo import GrpoParameters
from engine.schema.kto import KtoParameters
from engine.schema.options import more_options
from engine.schema.ppo import PpoParameters
from engine.schema.reward import RewardParameters
from engine.schema.sft import SftParameters
from engine.schema.train import TrainParameters

__all__ = ["CUSTOM", "LOSS", "RECIPES", "REWARD", "Objective", "Recipe", "more_options"]

# The recipe of a custom method, which is a program and none of the table.
CUSTOM = "custom"
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
    """`formats`: slugs of engine.rows.formats that it can learn from."""

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
