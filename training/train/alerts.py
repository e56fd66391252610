"""What keeps a train with rewards from learning, judging by its latest steps."""

from __future__ import annotations

from statistics import fmean

from training.models import TrainRun
from training.train.judgement import Judgement

# Logged steps that an alert is based on; fewer say little.
WINDOW = 20
FEWEST_STEPS = 5
# An alert is raised from these shares on.
NO_SPREAD = 0.3
CUT_OFF = 0.1


def alerts_of(run: TrainRun) -> list[Judgement]:
    """Warnings with their numbers, none for a train that is judged by its loss."""
    if not run.objective.higher_is_better:
        return []

    latest = run.metrics.filter(split="train").order_by("-seq")
    rows = list(latest.values_list("values", flat=True)[:WINDOW])
    alerts: list[Judgement] = []

    equal = _mean([values.get("frac_reward_zero_std") for values in rows])
    if equal is not None and equal >= NO_SPREAD:
        alerts.append(
            Judgement(
                "warn",
                f"{equal:.0%} of prompts gave every answer the same reward,",
                f"so nothing was learned from them (mean of the last {len(rows):,} logged steps). "
                "Harder or easier prompts, or a higher temperature, usually help.",
            )
        )

    cut = _mean([values.get("completions/clipped_ratio") for values in rows])
    limit = run.parameters.get("max_completion_tokens")
    if cut is not None and cut >= CUT_OFF and limit:
        alerts.append(
            Judgement(
                "warn",
                f"{cut:.0%} of answers were cut off at {limit:,} tokens,",
                f"and were scored without their end (mean of the last {len(rows):,} logged steps). "
                "Allow longer answers, or reward shorter ones.",
            )
        )

    return alerts


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    if len(numbers) < FEWEST_STEPS:
        return None

    return fmean(numbers)
