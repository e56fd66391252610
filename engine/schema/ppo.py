"""PPO: an answer to each prompt, and a value head that learns what answers are worth."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from engine.schema.fields import parameter, refuse
from engine.schema.rollouts import RolloutParameters


class PpoParameters(RolloutParameters):
    """Proximal policy optimisation (arxiv.org/abs/1707.06347), with a value head on the policy's
    own trunk."""

    recipe: ClassVar[str] = "ppo"

    kl_coef: float = parameter(
        0.05,
        "KL coefficient",
        "What leaving the reference model costs, token by token. 0: nothing.",
        group="Method",
        typical=(0.001, 0.2),
        ge=0,
        le=1,
    )
    ppo_epochs: int = parameter(
        4,
        "PPO epochs",
        "Passes over each batch of answers before new ones are written.",
        group="Method",
        typical=(1, 4),
        ge=1,
        le=16,
    )
    clip_range: float = parameter(
        0.2,
        "Clip range",
        "How far one batch of answers may move the model.",
        group="Method",
        advanced=True,
        typical=(0.1, 0.3),
        ge=0.01,
        le=1,
    )
    value_clip_range: float = parameter(
        0.2,
        "Value clip range",
        "How far one batch of answers may move the predicted values.",
        group="Method",
        advanced=True,
        typical=(0.1, 0.5),
        ge=0.01,
        le=10,
    )
    value_coef: float = parameter(
        0.1,
        "Value coefficient",
        "Weight of the value head's loss beside the policy's.",
        group="Method",
        advanced=True,
        typical=(0.05, 1),
        ge=0,
        le=10,
    )
    value_learning_rate: float = parameter(
        1e-3,
        "Learning rate of the values",
        "Of the value head alone, which starts from nothing and has to catch up.",
        group="Method",
        advanced=True,
        typical=(1e-4, 1e-2),
        gt=0,
        le=1,
    )
    gamma: float = parameter(
        1.0,
        "Discount (gamma)",
        "What a reward one token later is worth. 1: the same.",
        group="Method",
        advanced=True,
        typical=(0.95, 1),
        ge=0,
        le=1,
    )
    lam: float = parameter(
        0.95,
        "GAE lambda",
        "1 trusts the rewards alone, 0 the predicted values alone.",
        group="Method",
        advanced=True,
        typical=(0.9, 1),
        ge=0,
        le=1,
    )
    whiten_advantages: bool = parameter(
        True,
        "Whiten advantages",
        "Shift and scale the advantages of a batch to mean 0 and spread 1.",
        group="Method",
        advanced=True,
    )
    missing_eos_penalty: float = parameter(
        1.0,
        "Penalty for no end",
        "Taken from the reward of an answer that did not end in time.",
        group="Method",
        typical=(0, 2),
        ge=0,
        le=10,
    )

    @model_validator(mode="after")
    def check_batch(self) -> Self:
        if self.effective_batch() < 2:
            raise refuse(
                "batch_size", "PPO compares answers with one another: it needs at least 2 a step."
            )

        return self

    def steps_per_epoch(self, train_rows: int) -> int:
        """A last batch that is not full is left out, as TRL's sampler does."""
        return train_rows // self.rows_per_step() * self.ppo_epochs
