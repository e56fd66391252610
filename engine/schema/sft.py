"""SFT: learn from example answers, with every weight or with a LoRA adapter."""

from __future__ import annotations

from typing import ClassVar

from engine.schema.fields import parameter
from engine.schema.train import LengthParameters, TrainParameters


class SftParameters(TrainParameters, LengthParameters):
    """Supervised fine-tuning."""

    recipe: ClassVar[str] = "sft"

    answers_only: bool = parameter(
        True,
        "Learn from answers only",
        "The model learns the answers and not the questions; right for chat data. Plain text is "
        "always learned in full.",
        group="Data",
    )
    packing: bool = parameter(
        False,
        "Packing",
        "Fill each sequence with several short rows. Faster on many short rows.",
        group="Data",
        advanced=True,
    )
    neftune_noise_alpha: float = parameter(
        0.0,
        "NEFTune noise",
        "Noise on the embeddings against memorising. 0: off.",
        group="Training",
        advanced=True,
        typical=(0, 15),
        ge=0,
        le=50,
    )
