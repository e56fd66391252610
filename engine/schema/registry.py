"""The one table of recipes. Everything else follows from a recipe's entry here: its parameters and
data formats, the trainer's other options, what a warm process imports ahead, and under which
identity its tokenised rows are cached.

To add a recipe: its parameters in a module here (no training library: the web imports it), its
`train` in the module of the same name in engine.recipes, one entry below, then
`python -m engine.programs.option_catalogues`, a method in methods/builtin.py and `make docs`.
tests/engine/test_registry.py names what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from engine.schema import offered
from engine.schema.dpo import DpoParameters
from engine.schema.grpo import GrpoParameters
from engine.schema.kto import KtoParameters
from engine.schema.offered import Entries
from engine.schema.options import more_options
from engine.schema.ppo import PpoParameters
from engine.schema.reward import RewardParameters
from engine.schema.rollouts import RolloutParameters
from engine.schema.sft import SftParameters
from engine.schema.train import TrainParameters

__all__ = [
    "CUSTOM",
    "LOSS",
    "RECIPES",
    "REWARD",
    "Objective",
    "Recipe",
    "carry_on_obstacle",
    "more_options",
]

# The recipe of a custom method, which is a program and not in the table.
CUSTOM = "custom"

CONVERSATIONS = ("messages", "conversations", "prompt-completion", "alpaca", "question-answer")
PROMPTS = (*CONVERSATIONS, "prompt-only", "preference")


@dataclass(frozen=True)
class Objective:
    """The metric by which a train is judged: lists show it, and it decides which checkpoint is the
    best one."""

    title: str
    train: str
    evaluation: str
    higher_is_better: bool = False


LOSS = Objective("Loss", "loss", "eval_loss")
REWARD = Objective("Reward", "reward", "eval_reward", higher_is_better=True)


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    parameters: what the form asks; its `recipe` is the recipe's name. formats: slugs of
    engine.rows.formats that it can learn from. trainer_config: the dataclass of TRL that takes the
    other options, as "module:name". options: which of that class's fields are offered.
    makes_scorer: the result is a reward model, which scores answers and writes none."""

    title: str
    parameters: type[TrainParameters]
    formats: tuple[str, ...]
    trainer_config: str
    options: Entries
    objective: Objective = LOSS
    makes_scorer: bool = False

    @property
    def name(self) -> str:
        return self.parameters.recipe

    @property
    def module(self) -> str:
        """The module whose `train(job)` does the work. It needs the training libraries."""
        return f"engine.recipes.{self.name}"

    @property
    def learns_from_rewards(self) -> bool:
        """Whether the model writes answers, which reward functions then score."""
        return issubclass(self.parameters, RolloutParameters)


_ALL_RECIPES = (
    Recipe(
        title="SFT (supervised fine-tuning)",
        parameters=SftParameters,
        formats=(*CONVERSATIONS, "text"),
        trainer_config="trl.trainer.sft_config:SFTConfig",
        options=offered.SFT,
    ),
    Recipe(
        title="DPO (direct preference optimisation)",
        parameters=DpoParameters,
        formats=("preference",),
        trainer_config="trl.trainer.dpo_config:DPOConfig",
        options=offered.DPO,
    ),
    Recipe(
        title="KTO (learning from rated answers)",
        parameters=KtoParameters,
        formats=("kto", "preference"),
        trainer_config="trl.trainer.kto_config:KTOConfig",
        options=offered.KTO,
    ),
    Recipe(
        title="Reward model",
        parameters=RewardParameters,
        formats=("preference",),
        trainer_config="trl.trainer.reward_config:RewardConfig",
        options=offered.REWARD,
        makes_scorer=True,
    ),
    Recipe(
        title="GRPO (group relative policy optimisation)",
        parameters=GrpoParameters,
        formats=PROMPTS,
        trainer_config="trl.trainer.grpo_config:GRPOConfig",
        options=offered.GRPO,
        objective=REWARD,
    ),
    Recipe(
        title="PPO (proximal policy optimisation)",
        parameters=PpoParameters,
        formats=PROMPTS,
        trainer_config="trl.trainer.grpo_config:GRPOConfig",
        options=offered.PPO,
        objective=REWARD,
    ),
)

RECIPES = {recipe.name: recipe for recipe in _ALL_RECIPES}


def carry_on_obstacle(recipe: str, adapter: str) -> str:
    """Why a train of this recipe cannot carry a trained model's adapter on, or nothing. `adapter`:
    the parameter of that name."""
    if recipe not in RECIPES:
        return "A custom program loads the model itself, and knows of no adapter to continue."

    if RECIPES[recipe].makes_scorer:
        return (
            "The adapter learned to write answers. A reward model has a head of scores in place of "
            "the output layer, and an adapter that is trained and saved with that head."
        )

    if adapter != "lora":
        return "All weights are trained here, and an adapter is continued as an adapter."

    return ""
