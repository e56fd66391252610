"""KTO: learn from answers that were rated good or bad, one by one."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.schema.fields import parameter
from engine.schema.train import LengthParameters, TrainParameters


class KtoParameters(TrainParameters, LengthParameters):
    """Kahneman-Tversky optimisation (arxiv.org/abs/2402.01306)."""

    recipe: ClassVar[str] = "kto"

    learning_rate: float = parameter(
        5e-6,
        "Learning rate",
        "How far each step moves the weights. Ratings need far less than examples do.",
        group="Training",
        typical=(1e-7, 1e-4),
        gt=0,
        le=1,
    )
    batch_size: int = parameter(
        4,
        "Batch size",
        "Rows at once on each device; at least 2, since each answer is compared with another "
        "row's. Costs memory.",
        group="Training",
        unit="rows",
        typical=(4, 64),
        ge=2,
        le=4096,
    )
    beta: float = parameter(
        0.1,
        "Beta",
        "How strongly the model is held to what it was before. Lower: it may move further.",
        group="Method",
        typical=(0.01, 0.5),
        ge=0.001,
        le=10,
    )
    loss_type: Literal["kto", "apo_zero_unpaired"] = parameter(
        "kto",
        "Loss",
        "KTO as published, or APO, which holds no row against the others of its batch.",
        group="Method",
        advanced=True,
        choice_titles={"kto": "KTO", "apo_zero_unpaired": "APO zero"},
    )
    desirable_weight: float = parameter(
        1.0,
        "Weight of good answers",
        "Raise it where good answers are few: number times weight should be alike on both sides.",
        group="Method",
        typical=(0.5, 4),
        ge=0,
        le=10,
    )
    undesirable_weight: float = parameter(
        1.0,
        "Weight of bad answers",
        "Raise it where bad answers are few.",
        group="Method",
        typical=(0.5, 4),
        ge=0,
        le=10,
    )
