"""SFT: learn from example answers, with every weight or with a LoRA adapter."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from engine.options import OptionProblem, options_check
from engine.parameters import TrainParameters, parameter, refuse


class SftParameters(TrainParameters):
    """Supervised fine-tuning."""

    answers_only: bool = parameter(
        True,
        "Learn from answers only",
        "The loss is taken on the answers alone; right for chat data. Plain text always counts whole.",
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

    @field_validator("more")
    @classmethod
    def check_more(cls, more: dict[str, Any]) -> dict[str, Any]:
        """Only options that the trainer has and that are offered, with values that fit them."""
        try:
            return options_check("sft", more)
        except OptionProblem as problem:
            raise refuse("more", str(problem)) from problem
