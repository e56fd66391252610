"""Parameters of the methods that learn from the model's own answers (rollouts) and their rewards:
GRPO and PPO."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from engine.rewards.parameters import RewardChoice
from engine.schema.fields import parameter, refuse
from engine.schema.train import TrainParameters


class RolloutParameters(TrainParameters):
    """A row is a prompt. `batch_size` counts answers, on each device."""

    max_prompt_tokens: int = parameter(
        256,
        "Max prompt tokens",
        "Prompts that are longer are left out.",
        group="Data",
        unit="tokens",
        typical=(64, 2048),
        ge=8,
        le=1_048_576,
    )
    max_completion_tokens: int = parameter(
        256,
        "Max answer tokens",
        "An answer that has not ended by then is cut off. Most of the time goes into writing "
        "answers.",
        group="Data",
        unit="tokens",
        typical=(32, 1024),
        ge=1,
        le=1_048_576,
    )
    learning_rate: float = parameter(
        1e-5,
        "Learning rate",
        "How far each step moves the weights. Too high and the model forgets how to speak.",
        group="Training",
        typical=(1e-7, 1e-4),
        gt=0,
        le=1,
    )
    batch_size: int = parameter(
        8,
        "Batch size",
        "Answers at once on each device. Costs memory.",
        group="Training",
        unit="answers",
        typical=(4, 64),
        default_on_cpu=4,
        ge=1,
        le=4096,
    )
    evaluation_every: float = parameter(
        0.5,
        "Evaluate every",
        "Share of the train between two evaluations. Each writes an answer to every held-out "
        "prompt, which takes as "
        "long as some steps.",
        group="Evaluation and saving",
        percent=True,
        typical=(0.1, 0.5),
        gt=0,
        le=1,
    )
    rewards: list[RewardChoice] = parameter(
        [],
        "Rewards",
        "What an answer is worth: the weighted sum of these functions.",
        group="Rewards",
        max_length=20,
    )
    on_reward_error: Literal["stop", "skip"] = parameter(
        "stop",
        "When a reward fails",
        "End the train, or leave the answer out and go on.",
        group="Rewards",
        advanced=True,
        choice_titles={"stop": "End the train", "skip": "Leave the answer out"},
    )
    temperature: float = parameter(
        1.0,
        "Temperature",
        "How much the model tries out. Near 0 all answers are alike, and nothing can be learned "
        "from them.",
        group="Method",
        typical=(0.6, 1.2),
        ge=0.01,
        le=2,
    )
    top_p: float = parameter(
        1.0,
        "Top p",
        "Choose only among the likeliest words that together have this probability.",
        group="Method",
        advanced=True,
        typical=(0.8, 1),
        gt=0,
        le=1,
    )
    use_vllm: bool = parameter(
        False,
        "Write answers with vLLM",
        "Much faster writing. Needs a GPU and the library vllm.",
        group="Hardware",
        advanced=True,
        needs="cuda",
    )

    @model_validator(mode="after")
    def check_whole_copies(self) -> Self:
        if self.is_sharded():
            raise refuse(
                "strategy",
                "Writing answers takes a whole copy of the model on each device. Choose that, or "
                "a method that learns from rows.",
            )

        return self

    @field_validator("rewards")
    @classmethod
    def check_rewards(cls, rewards: list[RewardChoice]) -> list[RewardChoice]:
        if not rewards:
            raise refuse(
                "rewards", "Choose at least one reward: without one there is nothing to learn from."
            )

        if not any(choice.weight for choice in rewards):
            raise refuse("rewards", "Every reward has the weight 0: give at least one a weight.")

        return rewards
