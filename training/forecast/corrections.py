"""What the formulas are corrected by: what trains of this house and tried steps really took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from django.db.models import prefetch_related_objects

from core.text import counted
from datasets_app.models import TokenLengths
from engine.forecast.batches import Batch
from engine.forecast.memory import Memory, memory_forecast
from engine.forecast.shape import ModelShape, ShapeUnknown, shape_read
from engine.forecast.workload import Target, Workload
from engine.messages.failures import OUT_OF_MEMORY
from models_app.models import BaseModel
from training.forecast.inputs import (
    Parameters,
    batch_of,
    deciding_of,
    evaluated_batch,
    lengths_known,
    reward_model_bytes,
)
from training.models import StepMeasurement, TrainRun

# The error of the formulas alone, as a share: on a CPU nine in ten measured trains were within
# (benchmarks/forecast.py); on a GPU they have not been measured.
FORMULA_ERROR = {"cpu": 0.15, "cuda": 0.30}
# The least error after a correction by so many trains, and by the very configuration.
CORRECTED_ERROR = 0.08
ERROR_OF_ONE = 0.12
# How many earlier trains are looked at, and the bounds of what they may change.
PAST_TRAINS = 12
FACTORS = (0.4, 2.5)
# A step measured the batch of a train whose tokens differ from its own by at most this share.
SAME_BATCH = 0.05
# Of these, a train whose peak corrects another's must have the same.
ALIKE = (
    "adapter",
    "quantization",
    "gradient_checkpointing",
    "packing",
    "strategy",
    "offload",
    "use_vllm",
)


@dataclass(frozen=True)
class Correction:
    """`factor`: what the formulas' result is multiplied by. `error`: what is left, as a share.
    `trains`, `steps`: how many earlier trains and tried steps it comes from. `is_measured`: this very
    configuration was tried. `ran_out`: and had too little memory."""

    factor: float
    error: float
    trains: int = 0
    steps: int = 0
    is_measured: bool = False
    ran_out: bool = False

    @property
    def words(self) -> str:
        """What the figure rests on."""
        if self.ran_out:
            return "ran out of memory here"
        if self.is_measured:
            return "measured by one step"
        if not self.trains and not self.steps:
            return "estimated; no similar train has run here yet"

        parts = []
        if self.trains:
            parts.append(counted(self.trains, "earlier train"))
        if self.steps:
            parts.append(counted(self.steps, "tried step"))

        return f"corrected by {' and '.join(parts)}"


@dataclass(frozen=True)
class Configuration:
    """What decides on the memory of a train of a base model on a device. `batch`: its largest. `is_half`:
    whether the device was found to compute well in bf16, which a busy processor may not be."""

    deciding: dict[str, Any]
    batch: Batch
    is_half: bool

    @classmethod
    def of(cls, parameters: Parameters, batch: Batch, device: Mapping[str, Any]) -> Configuration:
        return cls(deciding_of(parameters), batch, Target.of(device).half)

    def is_same(self, other: Configuration) -> bool:
        """Whether what was measured of one holds for the other."""
        mine, its = (self.deciding, self.is_half), (other.deciding, other.is_half)
        return mine == its and is_same_batch(self.batch, other.batch)


@dataclass(frozen=True)
class Past:
    """What a train or a tried step took, against what the formulas say of it. `is_own`: of the same
    base model. `at`: when it ended."""

    factor: float
    configuration: Configuration
    is_step: bool
    is_own: bool
    at: datetime

    def is_alike(self, parameters: Parameters) -> bool:
        deciding = self.configuration.deciding
        if _accumulates(deciding) != _accumulates(parameters):
            return False

        return all((deciding.get(name) or None) == (parameters.get(name) or None) for name in ALIKE)


@dataclass(frozen=True)
class Failure:
    """A train or a tried step that had too little memory."""

    configuration: Configuration
    at: datetime

    def is_disproved(self, pasts: Iterable[Past]) -> bool:
        """Whether the same has run there since: something else may have had the memory."""
        return any(
            past.is_own and past.at > self.at and past.configuration.is_same(self.configuration)
            for past in pasts
        )


def _accumulates(parameters: Parameters) -> bool:
    """Whether gradients of all weights lie beside the next batch; those of an adapter are small."""
    steps = int(parameters.get("gradient_accumulation_steps") or 1)
    return parameters.get("adapter") == "none" and steps > 1


def corrected_by(pasts: Sequence[Past], kind: str, *, is_own: bool) -> Correction:
    """The median over them; the error is half of their interquartile range, and never less than what
    so few can say."""
    formula = FORMULA_ERROR.get(kind, 0.15)
    if not pasts:
        return Correction(1.0, formula)

    factors = sorted(past.factor for past in pasts)
    factor = min(max(median(factors), FACTORS[0]), FACTORS[1])
    quarter = len(factors) // 4
    spread = (factors[-1 - quarter] - factors[quarter]) / 2 / factor
    least = ERROR_OF_ONE if len(factors) == 1 else CORRECTED_ERROR
    # Another model's error is not this one's.
    least = least if is_own else max(least, formula)

    steps = sum(past.is_step for past in pasts)
    return Correction(factor, max(least, spread), trains=len(pasts) - steps, steps=steps)


def is_same_batch(one: Batch, other: Batch) -> bool:
    if (one.rows, one.answer) != (other.rows, other.answer):
        return False

    sizes = ((one.tokens, other.tokens), (one.longest, other.longest))
    return all(math.isclose(mine, its, rel_tol=SAME_BATCH) for mine, its in sizes)


def pasts_of(
    recipe: str, base_model: BaseModel, shape: ModelShape, device: Mapping[str, Any]
) -> list[Past]:
    """Earlier trains of the same recipe on that device with what they took, the newest first; before
    them steps of this model that were tried. shape: of the model."""
    return [
        *_tried_steps(recipe, base_model, shape, device),
        *_earlier_trains(recipe, base_model, device),
    ]


def _tried_steps(
    recipe: str, base_model: BaseModel, shape: ModelShape, device: Mapping[str, Any]
) -> list[Past]:
    found = []
    for step in _steps(recipe, base_model, device, have_peak=True):
        reward_bytes = reward_model_bytes(step.parameters, None)
        if reward_bytes is None:
            continue

        work = Workload(recipe, step.parameters, Batch(**step.batch), Target.of(step.device))
        memory = memory_forecast(shape, work, reward_bytes=reward_bytes)
        factor = factor_of(memory, int(step.peak_bytes or 0))
        configuration = Configuration.of(step.parameters, work.batch, step.device)
        found.append(Past(factor, configuration, is_step=True, is_own=True, at=_ended(step)))

    return found


def _steps(
    recipe: str, base_model: BaseModel, device: Mapping[str, Any], *, have_peak: bool
) -> Iterable[StepMeasurement]:
    """The newest tried steps of the model on that device, with a measured peak or without one."""
    steps = StepMeasurement.objects.filter(
        method__recipe=recipe,
        base_model=base_model,
        peak_bytes__isnull=not have_peak,
        device__name=device.get("name", ""),
    )
    return steps[:PAST_TRAINS]


def ran_out(
    recipe: str, base_model: BaseModel, shape: ModelShape, device: Mapping[str, Any]
) -> list[Failure]:
    """Those that had too little memory on that device: tried steps, and trains."""
    # A step without a result names its device where that had too little memory.
    found = [
        Failure(Configuration.of(step.parameters, Batch(**step.batch), step.device), _ended(step))
        for step in _steps(recipe, base_model, device, have_peak=False)
    ]

    runs = TrainRun.objects.filter(
        status=TrainRun.Status.FAILED,
        error_code=OUT_OF_MEMORY.code,
        method__recipe=recipe,
        base_model=base_model,
        facts__device__name=device.get("name", ""),
    ).select_related("base_model", "dataset")
    for run in runs.prefetch_related("dataset__token_lengths")[:PAST_TRAINS]:
        batch = _batch_of_train(run, recipe, shape, run.total_steps, _lengths_of_train(run))
        if batch is not None:
            configuration = Configuration.of(run.parameters, batch, run.facts["device"])
            found.append(Failure(configuration, _ended(run)))

    return found


def _ended(what: StepMeasurement | TrainRun) -> datetime:
    ended = what.done_at if isinstance(what, StepMeasurement) else what.finished_at
    return ended or what.created_at


def _earlier_trains(recipe: str, base_model: BaseModel, device: Mapping[str, Any]) -> list[Past]:
    runs = TrainRun.objects.filter(
        status=TrainRun.Status.FINISHED,
        method__recipe=recipe,
        facts__device__name=device.get("name", ""),
        last_metrics__peak_memory_gb__gt=0,
    ).select_related("base_model", "dataset", "evaluation_dataset")
    own = runs.filter(base_model=base_model)[:PAST_TRAINS]
    others = runs.exclude(base_model=base_model)[:PAST_TRAINS]
    trains = [*own, *others]
    prefetch_related_objects(trains, "dataset__token_lengths", "evaluation_dataset__token_lengths")

    found = []
    for run in trains:
        measured = _factor_of_train(run, recipe)
        if measured is not None:
            factor, batch = measured
            is_own = run.base_model_id == base_model.pk
            configuration = Configuration.of(run.parameters, batch, run.facts["device"])
            past = Past(factor, configuration, is_step=False, is_own=is_own, at=_ended(run))
            found.append(past)

    return found


def _factor_of_train(run: TrainRun, recipe: str) -> tuple[float, Batch] | None:
    """(factor, its largest batch). None where its base model, its reward models or its counts are gone,
    or where it cannot be compared."""
    reward_bytes = reward_model_bytes(run.parameters, None)
    if reward_bytes is None or run.attempt > 1:
        return None

    try:
        shape = shape_read(run.base_model.path)
    except ShapeUnknown:
        return None

    lengths = _lengths_of_train(run)
    batch = _batch_of_train(run, recipe, shape, run.step, lengths)
    if batch is None:
        return None

    work = Workload(
        recipe,
        run.parameters,
        batch,
        Target.of(run.facts["device"]),
        _evaluated_by_train(run, recipe, shape, lengths),
    )
    if work.uncomputed:
        return None

    measured = float(run.last_metrics["peak_memory_gb"]) * 2**30
    memory = memory_forecast(shape, work, reward_bytes=reward_bytes)
    return factor_of(memory, round(measured)), batch


def _batch_of_train(
    run: TrainRun, recipe: str, shape: ModelShape, steps: int, lengths: TokenLengths | None
) -> Batch | None:
    """The largest of so many steps; None where it is not known, as without counts."""
    if lengths is None:
        return None

    target = Target.of(run.facts.get("device") or {})
    try:
        return batch_of(shape, recipe, run.parameters, target, lengths, max(1, steps))
    except (ShapeUnknown, KeyError, TypeError, ValueError):
        return None


def _lengths_of_train(run: TrainRun) -> TokenLengths | None:
    return lengths_known(run.base_model, run.dataset, run.system_prompt)


def _evaluated_by_train(
    run: TrainRun, recipe: str, shape: ModelShape, lengths: TokenLengths | None
) -> Batch | None:
    if lengths is None:
        return None

    own = lengths_known(run.base_model, run.evaluation_dataset, run.system_prompt)
    target = Target.of(run.facts["device"])
    return evaluated_batch(shape, recipe, run.parameters, target, lengths, own)


def factor_of(memory: Memory, measured: int) -> float:
    """How much more the train took than the formulas say, what is known left out on both sides."""
    known = memory.counted - memory.computed
    return max(0.1, (measured - known) / max(1, memory.computed))
