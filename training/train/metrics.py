"""What trains of each recipe measure, and what a train that has ended came to."""

from __future__ import annotations

import math
import re
from statistics import fmean

from methods.models import TrainingMethod
from training.models import TrainRun

METRIC = re.compile(r"[\w./@-]{1,80}")

LOSSES = {
    "eval_loss": "eval loss",
    "loss": "train loss",
}
PREFERENCES = {
    "eval_rewards/accuracies": "share of better answers preferred, held out",
    "eval_rewards/margins": "margin of better answers, held out",
}
REWARDS = {
    "eval_reward": "eval reward",
    "reward": "reward",
}
# {recipe: {metric: its title}} of what a gate or a sweep can ask for.
METRICS: dict[str, dict[str, str]] = {
    "sft": LOSSES | {"eval_mean_token_accuracy": "token accuracy, held out"},
    "dpo": LOSSES | PREFERENCES,
    "kto": LOSSES | {"eval_rewards/margins": PREFERENCES["eval_rewards/margins"]},
    "reward": LOSSES | {"eval_accuracy": PREFERENCES["eval_rewards/accuracies"]},
    "grpo": REWARDS,
    "ppo": REWARDS,
}
EVERY_METRIC = {name: title for metrics in METRICS.values() for name, title in metrics.items()}
# Of a train, over which a metric of every step is a mean.
LAST_SHARE = 0.1
# Of these the lower value is the better one, of all others the higher.
LOWER_IS_BETTER = frozenset(LOSSES)


def metric_title(name: str) -> str:
    return EVERY_METRIC.get(name, name)


def method_metrics(method: TrainingMethod | None) -> dict[str, str]:
    """{metric: title} that can be asked for of trains of this method."""
    return METRICS.get(method.recipe, EVERY_METRIC) if method is not None else EVERY_METRIC


def is_evaluation(metric: str) -> bool:
    """Whether it is measured on held-out rows."""
    return metric.startswith("eval_")


def metric_split(metric: str) -> str:
    """Which of MetricRow.split has the metric."""
    return "eval" if is_evaluation(metric) else "train"


def metric_result(run: TrainRun, metric: str) -> float | None:
    """The value of what the train leaves: its best checkpoint where it keeps that, else its end.
    None where it was never measured, or is no finite number. A metric of every step is a mean: one
    batch alone says little."""
    if run.parameters.get("keep_best"):
        kept = run.outcome.get("model_step")
        if kept is not None:
            # Not best_value: there may have been a better evaluation without a checkpoint.
            return _at_step(run, metric, int(kept))
        if run.best_step is not None:
            # An engine of before did not say which step its model is of.
            if metric == run.objective.evaluation:
                return finite(run.best_value)

            return _at_step(run, metric, run.best_step)

    if not is_evaluation(metric) and run.step:
        return _at_step(run, metric, run.step)

    for values in (run.last_evaluation, run.last_metrics):
        if metric in values:
            return finite(values[metric])

    return None


def _at_step(run: TrainRun, metric: str, step: int) -> float | None:
    """The value at that step, or the last one that was measured before it; of a metric of every step
    the mean over the last of them. None where one of those is no finite number."""
    rows = run.metrics.filter(split=metric_split(metric), step__lte=step).order_by("-step", "-seq")
    begin = None if is_evaluation(metric) else step - LAST_SHARE * max(run.total_steps, step)
    found: list[float] = []
    for at, values in rows.values_list("step", "values").iterator():
        if metric not in values:
            continue
        if found and (begin is None or at <= begin):
            break

        value = finite(values[metric])
        if value is None:
            return None

        found.append(value)

    return fmean(found) if found else None


def metric_at_the_start(run: TrainRun, metric: str) -> float | None:
    """The value before the first step; None for a train that did not measure it."""
    measured = run.metrics.filter(split="eval", step=0).order_by("seq")
    for values in measured.values_list("values", flat=True):
        if metric in values:
            return finite(values[metric])

    return None


def metric_points(run: TrainRun, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every finite value after the first step, in order."""
    rows = run.metrics.filter(split=metric_split(metric), step__gt=0).order_by("seq")
    points: dict[int, float] = {}
    for step, values in rows.values_list("step", "values").iterator():
        value = finite(values.get(metric))
        if value is not None:
            points[step] = value

    return sorted(points.items())


def finite(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]
