"""Gates: what must be so of a stage before the next one begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from chains.models import Stage
from core.errors import UserError
from core.templatetags.display import significant
from methods.models import TrainingMethod
from methods.services import method_objective
from training.models import TrainRun
from training.train.metrics import (
    METRIC,
    METRICS,
    is_evaluation,
    metric_at_the_start,
    metric_result,
    metric_title,
)

Gate = Stage.Gate

# Gates that compare a value with a number.
BOUNDS = (Gate.AT_MOST, Gate.AT_LEAST)
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
        errors["gate"] = ["No rows are held out, so there is no evaluation to become better."]

    if stage.gate in BOUNDS:
        known = METRICS.get(method.recipe)
        if known is not None and stage.gate_metric not in known:
            errors["gate_metric"] = [f"{method.name} measures {', '.join(known)}."]
        elif not METRIC.fullmatch(stage.gate_metric):
            errors["gate_metric"] = ["Name a value that the train measures, such as eval_loss."]
        elif is_evaluation(stage.gate_metric) and eval_rows == 0:
            errors["gate_metric"] = ["No rows are held out, so this is never measured."]

        if stage.gate_value is None or not math.isfinite(stage.gate_value):
            errors["gate_value"] = ["Give a number."]

    if errors:
        raise UserError(errors)


def gate_measure(stage: Stage, run: TrainRun) -> Measurement:
    """What the gate behind a stage finds on its finished train."""
    if stage.gate == Gate.FINISHED:
        return Measurement(passed=True)

    metric = _metric(stage, run.method)
    value = metric_result(run, metric)

    if stage.gate == Gate.BETTER:
        before = metric_at_the_start(run, metric)
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
