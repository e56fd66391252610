"""The memory of one train and of its variants on a device: formulas, corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets_app.models import TokenLengths
from engine.forecast.batches import Batch
from engine.forecast.memory import EVALUATING, TITLES, Memory, memory_forecast
from engine.forecast.shape import ModelShape, shape_read
from engine.forecast.workload import Target, Workload
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.forecast.corrections import (
    Configuration,
    Correction,
    Failure,
    Past,
    corrected_by,
    pasts_of,
    ran_out,
)
from training.forecast.inputs import Parameters, batch_of, evaluated_batch
from training.forecast.verdicts import FITS, TIGHT, DeviceForecast, verdict_of

# Of a device's memory, what a train can have: the system and the platform's own processes have theirs.
USABLE = {"cpu": 0.92, "cuda": 0.97}
ERROR_OF_MEASURED = 0.04


class Forecaster:
    """Forecasts of one train and of its variants: what is the same for all is looked up once."""

    def __init__(
        self,
        *,
        method: TrainingMethod,
        base_model: BaseModel,
        lengths: TokenLengths,
        steps: int,
        evaluation_lengths: TokenLengths | None = None,
        reward_bytes: int = 0,
    ) -> None:
        self.method = method
        self.base_model = base_model
        self.lengths = lengths
        self.evaluation_lengths = evaluation_lengths
        self.steps = max(1, steps)
        self.reward_bytes = reward_bytes
        # Raises ShapeUnknown.
        self.shape: ModelShape = shape_read(base_model.path)
        # By the name of a device.
        self.pasts: dict[str, list[Past]] = {}
        self.out_of_memory: dict[str, list[Failure]] = {}

    def batch(self, parameters: Parameters, device: Mapping[str, Any]) -> Batch:
        """Raises ShapeUnknown."""
        target = Target.of(device)
        recipe = self.method.recipe
        return batch_of(self.shape, recipe, parameters, target, self.lengths, self.steps)

    def computed(self, parameters: Parameters, device: Mapping[str, Any]) -> Memory:
        """By the formulas alone."""
        recipe, target = self.method.recipe, Target.of(device)
        batch = self.batch(parameters, device)
        evaluated = evaluated_batch(
            self.shape, recipe, parameters, target, self.lengths, self.evaluation_lengths
        )
        work = Workload(recipe, parameters, batch, target, evaluated)
        return memory_forecast(self.shape, work, reward_bytes=self.reward_bytes)

    def forecast(self, parameters: Parameters, device: Mapping[str, Any]) -> DeviceForecast:
        memory = self.computed(parameters, device)
        kind = str(device.get("kind", "cpu"))
        correction = self.correction(parameters, device, memory.moment)
        corrected = memory.scaled(correction.factor)

        # Ranks on a CPU have their shares of the machine's memory together; GPUs have one each.
        ranks = int(parameters.get("devices") or 1) if kind == "cpu" else 1
        total = corrected.total * ranks
        available = round(float(device.get("memory_gb") or 0) * 2**30) * ranks
        usable = round(available * USABLE.get(kind, 0.92))
        low = round(total * (1 - correction.error))
        high = round(total * (1 + correction.error))

        verdict = verdict_of(low, high, usable)
        if correction.ran_out and verdict == FITS:
            verdict = TIGHT

        return DeviceForecast(
            kind=kind,
            name=str(device.get("name", "")),
            workers=int(device.get("workers", 1)),
            memory=available,
            usable=usable,
            total=total,
            low=low,
            high=high,
            parts=[
                {"name": name, "title": TITLES[name], "bytes": size * ranks}
                for name, size in sorted(corrected.parts.items(), key=lambda part: -part[1])
            ],
            moment=corrected.moment,
            verdict=verdict,
            basis=correction.words,
            error=round(correction.error, 3),
        )

    def correction(
        self, parameters: Parameters, device: Mapping[str, Any], moment: str
    ) -> Correction:
        """By this very configuration where it was tried, else by the nearest earlier trains. moment: at
        which it takes most."""
        name = str(device.get("name", ""))
        if name not in self.pasts:
            self.pasts[name] = pasts_of(self.method.recipe, self.base_model, self.shape, device)
            self.out_of_memory[name] = ran_out(
                self.method.recipe, self.base_model, self.shape, device
            )

        configuration = Configuration.of(parameters, self.batch(parameters, device), device)
        found = self._by_pasts(configuration, parameters, device, moment)
        has_failed = any(
            failure.configuration.is_same(configuration)
            and not failure.is_disproved(self.pasts[name])
            for failure in self.out_of_memory[name]
        )
        return replace(found, ran_out=has_failed)

    def _by_pasts(
        self,
        configuration: Configuration,
        parameters: Parameters,
        device: Mapping[str, Any],
        moment: str,
    ) -> Correction:
        pasts = self.pasts[str(device.get("name", ""))]
        same = [
            past for past in pasts if past.is_step and past.configuration.is_same(configuration)
        ]
        # A step is tried without an evaluation.
        if same and moment != EVALUATING:
            return Correction(same[0].factor, ERROR_OF_MEASURED, steps=1, is_measured=True)

        alike = [past for past in pasts if past.is_alike(parameters)]
        own = [past for past in alike if past.is_own]
        return corrected_by(own or alike, str(device.get("kind", "cpu")), is_own=bool(own))
