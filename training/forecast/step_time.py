"""How long a train takes, by one step of it that was tried."""

from __future__ import annotations

from datasets_app.models import Dataset
from engine.forecast.shape import ShapeUnknown, shape_read
from engine.forecast.workload import row_limit
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.forecast.corrections import PAST_TRAINS
from training.forecast.inputs import Parameters, deciding_of, lengths_ready
from training.models import StepMeasurement

# The error of a time that one step was measured for, as a share: evaluation and saving are not in it.
ERROR_OF_A_STEP = 0.3


def seconds_by_step(
    *,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    parameters: Parameters,
    system_prompt: str = "",
    steps: int,
    device: str,
) -> float | None:
    """What the steps of a train would take, by one step of the very configuration; None where none was
    tried, or a train ran beside it. That step had the largest batch: others are as much shorter as their
    tokens are fewer."""
    if method.is_custom:
        return None

    tried = StepMeasurement.objects.filter(
        method=method,
        base_model=base_model,
        step_seconds__isnull=False,
        device__name=device,
    )
    wanted = deciding_of(parameters)
    found = next(
        (step for step in tried[:PAST_TRAINS] if deciding_of(step.parameters) == wanted), None
    )
    if found is None:
        return None

    share = 1.0
    lengths = lengths_ready(base_model, dataset, system_prompt)
    # A number of packed steps is one of full ones.
    is_full = bool(parameters.get("packing") and parameters.get("max_steps"))
    is_read = "max_tokens" in parameters and not is_full
    if is_read and not isinstance(lengths, str) and lengths.rows:
        try:
            limit = row_limit(shape_read(base_model.path), parameters)
        except ShapeUnknown:
            return None

        rows = sum(lengths.rows.values())
        tokens = sum(min(int(length), limit) * count for length, count in lengths.rows.items())
        share = tokens / rows * found.batch["rows"] / found.batch["tokens"]

    return float(found.step_seconds or 0.0) * share * steps
