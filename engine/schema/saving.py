"""How a train is measured while it runs, what of it is saved, and when it ends before its last
step."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from engine.schema.fields import parameter


class SavingParameters(BaseModel):
    """What every method has in the group "Evaluation and saving"."""

    evaluation_split: float = parameter(
        0.05,
        "Held-out rows",
        "Share kept out of training to measure it, at most 200 rows. 0: measure nothing.",
        group="Evaluation and saving",
        percent=True,
        typical=(0.02, 0.2),
        ge=0,
        le=0.5,
    )
    evaluation_every: float = parameter(
        0.1,
        "Evaluate every",
        "Share of the train between two evaluations.",
        group="Evaluation and saving",
        percent=True,
        typical=(0.05, 0.5),
        gt=0,
        le=1,
    )
    sample_prompts: int = parameter(
        4,
        "Sample prompts",
        "Held-out prompts answered before and after the train.",
        group="Evaluation and saving",
        unit="prompts",
        typical=(0, 12),
        ge=0,
        le=32,
    )
    sample_max_tokens: int = parameter(
        96,
        "Sample length",
        "Longest sample answer.",
        group="Evaluation and saving",
        unit="tokens",
        advanced=True,
        typical=(32, 256),
        ge=8,
        le=2048,
    )
    save_strategy: Literal["epochs", "steps", "end"] = parameter(
        "epochs",
        "Save checkpoints",
        "When a checkpoint is written. The finished model is always saved.",
        group="Evaluation and saving",
        choice_titles={
            "epochs": "Every N epochs",
            "steps": "Every N steps",
            "end": "Only at the end",
        },
    )
    save_every: int = parameter(
        1,
        "Save every",
        "How many epochs or steps lie between two checkpoints.",
        group="Evaluation and saving",
        active_when={"save_strategy": ["epochs", "steps"]},
        ge=1,
        le=10_000_000,
    )
    save_total_limit: int = parameter(
        3,
        "Checkpoints to keep",
        "This many of the latest are kept, and the best one too.",
        group="Evaluation and saving",
        unit="checkpoints",
        typical=(1, 10),
        active_when={"save_strategy": ["epochs", "steps"]},
        ge=1,
        le=1000,
    )
    logging_steps: int = parameter(
        1,
        "Log every",
        "Steps between two points of the charts.",
        group="Evaluation and saving",
        unit="steps",
        advanced=True,
        typical=(1, 50),
        ge=1,
        le=1_000_000,
    )
    keep_best: bool = parameter(
        False,
        "Keep the best checkpoint",
        "The finished model is the checkpoint with the best evaluation, not the last step.",
        group="Evaluation and saving",
        advanced=True,
    )
    early_stop_after: int | None = parameter(
        None,
        "Stop early",
        "Ends after this many evaluations without a better one. Blank: never.",
        group="Evaluation and saving",
        unit="evaluations",
        advanced=True,
        typical=(2, 10),
        ge=1,
        le=1000,
    )
    on_trouble: Literal["warn", "end"] = parameter(
        "warn",
        "When training goes wrong",
        "What happens when the model overfits, drifts too far from its reference, or gives the "
        "same answer to everything.",
        group="Evaluation and saving",
        advanced=True,
        choice_titles={"warn": "Warn on its page", "end": "Save and end it"},
    )
