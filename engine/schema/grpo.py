"""GRPO: several answers to each prompt, and learn from those that were worth more than the
others."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from engine.schema.fields import parameter, refuse
from engine.schema.rollouts import RolloutParameters


class GrpoParameters(RolloutParameters):
    """Group relative policy optimisation (arxiv.org/abs/2402.03300)."""

    recipe: ClassVar[str] = "grpo"

    num_generations: int = parameter(
        8,
        "Generations",
        "Answers to each prompt, which are compared with one another.",
        group="Method",
        unit="answers",
        typical=(4, 16),
        default_on_cpu=4,
        ge=2,
        le=128,
    )
    beta: float = parameter(
        0.0,
        "KL coefficient",
        "How strongly the model is held to what it was before. 0: not at all, and no reference "
        "model is computed.",
        group="Method",
        typical=(0, 0.1),
        ge=0,
        le=1,
    )
    epsilon: float = parameter(
        0.2,
        "Clip range",
        "How far one answer may move the model in one step.",
        group="Method",
        advanced=True,
        typical=(0.1, 0.3),
        ge=0.01,
        le=1,
    )
    num_iterations: int = parameter(
        1,
        "Iterations",
        "Steps made from each batch of answers before new ones are written.",
        group="Method",
        advanced=True,
        typical=(1, 4),
        ge=1,
        le=16,
    )
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = parameter(
        "dapo",
        "Loss",
        "How tokens are averaged. DAPO counts each token of the batch alike, so that long answers "
        "are not favoured.",
        group="Method",
        advanced=True,
        choice_titles={"dapo": "DAPO", "grpo": "GRPO", "dr_grpo": "Dr. GRPO", "bnpo": "BNPO"},
    )
    scale_rewards: Literal["group", "batch", "none"] = parameter(
        "group",
        "Scale rewards",
        "By the spread of the answers to one prompt, of the whole batch, or not.",
        group="Method",
        advanced=True,
        choice_titles={"group": "By group", "batch": "By batch", "none": "Not at all"},
    )
    mask_truncated_completions: bool = parameter(
        False,
        "Ignore answers that were cut off",
        "Do not learn from answers that did not end in time.",
        group="Method",
        advanced=True,
    )

    @model_validator(mode="after")
    def check_groups(self) -> Self:
        """Each step's answers must form whole groups."""
        answers = self.effective_batch()
        if answers % self.num_generations:
            raise refuse("batch_size", self._groups_text(answers))

        return self

    def _groups_text(self, answers: int) -> str:
        """Why `answers` a step do not form whole groups, and the nearest values that would."""
        # On all devices, for each answer at once on one of them.
        times = self.gradient_accumulation_steps * self.devices
        group = self.num_generations

        sizes = range(1, self.batch_size + 2 * group)
        batch_sizes = [size for size in sizes if size * times % group == 0]
        groups = [size for size in range(2, answers + 1) if answers % size == 0]

        on_devices = f" × {self.devices:,} devices" if self.devices > 1 else ""
        text = (
            f"Batch size {self.batch_size:,} × accumulation "
            f"{self.gradient_accumulation_steps:,}{on_devices} = {answers:,} answers "
            f"a step, which {group:,} generations do not divide. "
            f"Use a batch size of {_nearest_two(batch_sizes, self.batch_size)}"
        )
        if groups:
            text += f", or {_nearest_two(groups, group)} generations"

        return f"{text}."

    def rows_per_step(self) -> int:
        return self.effective_batch() // self.num_generations

    def steps_per_epoch(self, train_rows: int) -> int:
        """A last batch that is not full is left out: groups must be whole."""
        return train_rows // self.rows_per_step() * self.num_iterations


def _nearest_two(values: list[int], wanted: int) -> str:
    """The two values that are nearest to `wanted`, as text."""
    nearest = sorted(values, key=lambda value: abs(value - wanted))[:2]
    return " or ".join(f"{value:,}" for value in sorted(nearest))
