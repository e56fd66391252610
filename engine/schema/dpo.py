"""DPO: learn from pairs of a better and a worse answer, against a reference model."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.schema.fields import parameter
from engine.schema.train import LengthParameters, TrainParameters


class DpoParameters(TrainParameters, LengthParameters):
    """Direct preference optimisation (arxiv.org/abs/2305.18290)."""

    recipe: ClassVar[str] = "dpo"

    learning_rate: float = parameter(
        5e-6,
        "Learning rate",
        "How far each step moves the weights. Pairs need far less than examples do.",
        group="Training",
        typical=(1e-7, 1e-4),
        gt=0,
        le=1,
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
    loss_type: Literal[
        "sigmoid",
        "ipo",
        "hinge",
        "robust",
        "apo_zero",
        "apo_down",
        "exo_pair",
        "nca_pair",
        "sppo_hard",
    ] = parameter(
        "sigmoid",
        "Loss",
        "Sigmoid is DPO as published. Robust expects pairs that are now and then the wrong way "
        "round.",
        group="Method",
        choice_titles={
            "sigmoid": "Sigmoid (DPO)",
            "ipo": "IPO",
            "hinge": "Hinge",
            "robust": "Robust",
            "apo_zero": "APO zero",
            "apo_down": "APO down",
            "exo_pair": "EXO",
            "nca_pair": "NCA",
            "sppo_hard": "SPPO hard",
        },
    )
    label_smoothing: float = parameter(
        0.0,
        "Label smoothing",
        "Share of pairs that you expect to be the wrong way round. Robust needs more than 0.",
        group="Method",
        percent=True,
        typical=(0, 0.2),
        active_when={"loss_type": ["sigmoid", "robust", "exo_pair"]},
        ge=0,
        le=0.5,
    )
