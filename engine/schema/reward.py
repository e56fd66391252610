"""Reward model: learn to score answers from pairs of a better and a worse one."""

from __future__ import annotations

from typing import ClassVar

from engine.schema.fields import parameter
from engine.schema.train import LengthParameters, TrainParameters


class RewardParameters(TrainParameters, LengthParameters):
    """A scalar score by the Bradley-Terry loss (arxiv.org/abs/2203.02155)."""

    recipe: ClassVar[str] = "reward"

    learning_rate: float = parameter(
        1e-4,
        "Learning rate",
        "How far each step moves the weights.",
        group="Training",
        typical=(1e-6, 1e-3),
        gt=0,
        le=1,
    )
    center_rewards_coefficient: float = parameter(
        0.01,
        "Centre the scores",
        "Pulls the scores of a pair towards 0 on average, so that scores of several prompts "
        "compare. 0: off.",
        group="Method",
        typical=(0, 0.1),
        ge=0,
        le=1,
    )
