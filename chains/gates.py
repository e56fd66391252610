"""Gates: what must be so of a stage before the next one begins."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from chains.models import Stage
from core.errors import UserError
from core.templatetags.display import significant
from methods.models import TrainingMethod
from methods.services import method_objective
from training.models import TrainRun

Gate = Stage.Gate

# Gates that compare a value with a number.
BOUNDS = (Gate.AT_MOST, Gate.AT_LEAST)
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
# What trains of each recipe measure, and a gate can ask for.
METRICS: dict[str, dict[str, str]] = {
    "sft": LOSSES | {"eval_mean_token_accuracy": "token accuracy, held out"},
    "dpo": LOSSES | PREFERENCES,
    "kto": LOSSES | {"eval_rewards/margins": PREFERENCES["eval_rewards/margins"]},
    "grpo": REWARDS,
    "ppo": REWARDS,
}
EVERY_METRIC = {name: title for metrics in METRICS.values() for name, title in metrics.items()}
DIGITS = 4


@dataclass(frozen=True)
class Measurement:
    """What a gate found. value: None where it was never measured, or is no finite number. before:
    the same at the start, where the gate compares the two."""

    passed: bool
    value: float | None = None
    before: float | None = None


def gate_check(stage: Stage, method: TrainingMethod, eval_rows: int | None) -> None:
    """Whether the gate behind this stage can be asked at all. eval_rows: how many rows are held
    out, None where that is not known. Raises UserError by field (gate, gate_metric, gate_value)."""
    errors: dict[str, list[str]] = {}

    if stage.gate == Gate.BETTER and eval_rows == 0:
        errors["gate"] = ["Nothing is held out, so there is no evaluation to become better."]

    if stage.gate in BOUNDS:
        known = METRICS.get(method.recipe)
        if known is not None and stage.gate_metric not in known:
            errors["gate_metric"] = [f"{method.name} measures {', '.join(known)}."]
        elif not METRIC.fullmatch(stage.gate_metric):
            errors["gate_metric"] = ["Name a value that the train measures, such as eval_loss."]
        elif stage.gate_metric.startswith("eval_") and eval_rows == 0:
            errors["gate_metric"] = ["Nothing is held out, so this is never measured."]

        if stage.gate_value is None or not math.isfinite(stage.gate_value):
            errors["gate_value"] = ["Give a number."]

    if errors:
        raise UserError(errors)


def gate_measure(stage: Stage, run: TrainRun) -> Measurement:
    """What the gate behind a stage finds on its finished train."""
    if stage.gate == Gate.FINISHED:
        return Measurement(passed=True)

    metric = _metric(stage, run.method)
    value = _result(run, metric)

    if stage.gate == Gate.BETTER:
        before = _at_the_start(run, metric)
        return Measurement(_is_better(run, value, before), value, before)
    if value is None or stage.gate_value is None:
        return Measurement(passed=False, value=value)

    is_low_enough = value <= stage.gate_value
    is_high_enough = value >= stage.gate_value
    return Measurement(is_low_enough if stage.gate == Gate.AT_MOST else is_high_enough, value)


def _metric(stage: Stage, method: TrainingMethod) -> str:
    """What the gate looks at: by what the train is judged, where the gate compares with its
    start."""
    return stage.gate_metric if stage.gate in BOUNDS else method_objective(method).evaluation


def _is_better(run: TrainRun, value: float | None, before: float | None) -> bool:
    if value is None or before is None:
        return False

    return value > before if run.objective.higher_is_better else value < before


def _result(run: TrainRun, metric: str) -> float | None:
    """The value of what the train leaves: its best checkpoint where it keeps that, else its
    end."""
    if run.parameters.get("keep_best") and run.best_step is not None:
        if metric == run.objective.evaluation:
            return _finite(run.best_value)

        return _at_step(run, metric, run.best_step)

    for values in (run.last_evaluation, run.last_metrics):
        if metric in values:
            return _finite(values[metric])

    return None


def _at_step(run: TrainRun, metric: str, step: int) -> float | None:
    """The value at that step, or the last one that was measured before it."""
    split = "eval" if metric.startswith("eval_") else "train"
    measured = run.metrics.filter(split=split, step__lte=step).order_by("-step", "-seq")
    for values in measured.values_list("values", flat=True).iterator():
        if metric in values:
            return _finite(values[metric])

    return None


def _at_the_start(run: TrainRun, metric: str) -> float | None:
    """The value before the first step; None for a train that did not measure it."""
    measured = run.metrics.filter(split="eval", step=0).order_by("seq")
    for values in measured.values_list("values", flat=True):
        if metric in values:
            return _finite(values[metric])

    return None


def _finite(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


# In words


def gate_words(stage: Stage) -> str:
    """What must be so, as the end of "if …"."""
    at = f"stage {stage.position}"
    if stage.gate == Gate.FINISHED:
        return f"{at} has finished"
    if stage.gate == Gate.BETTER:
        return f"the evaluation of {at} is better than at its start"

    bound = "at most" if stage.gate == Gate.AT_MOST else "at least"
    wanted = "?" if stage.gate_value is None else number(stage.gate_value)
    return f"the {metric_title(stage.gate_metric)} of {at} is {bound} {wanted}"


def metric_title(name: str) -> str:
    return EVERY_METRIC.get(name, name)


def method_metrics(method: TrainingMethod | None) -> dict[str, str]:
    """{metric: title} that a gate behind a stage of this method can ask for."""
    return METRICS.get(method.recipe, EVERY_METRIC) if method is not None else EVERY_METRIC


def measured_words(stage: Stage, method: TrainingMethod | None) -> str:
    """What the gate found, behind what it asks for: "it was 1.204"; "" where it asks for no
    value."""
    if stage.passed is None or stage.gate == Gate.FINISHED or method is None:
        return ""

    subject = "it" if stage.gate in BOUNDS else f"its {metric_title(_metric(stage, method))}"
    if stage.measured is None:
        return f"{subject} was not measured"

    text = f"{subject} was {number(stage.measured)}"
    if stage.gate in BOUNDS:
        return text
    if stage.measured_before is None:
        return f"{text}, and it was not measured at its start"

    return f"{text}, and {number(stage.measured_before)} at its start"


def number(value: float) -> str:
    return significant(value, DIGITS)
