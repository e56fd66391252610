"""Whether a train fits a device, before it starts: the formulas of engine.forecast for what is asked for,
corrected by what trains of this house really took, with the error that is left.

The form asks while somebody types, so nothing here reads more than headers of files and a few rows of
the database. Where something that decides is not known there is no verdict, and `missing` says what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from datasets_app.models import Dataset
from engine.forecast.batches import Batch
from engine.forecast.shape import ShapeUnknown
from engine.forecast.workload import Target, Workload
from jobs.devices.launchers import ANYWHERE, RAY
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.forecast.devices import devices_present, is_one_away, presences
from training.forecast.fixes import fixes_of
from training.forecast.forecaster import Forecaster
from training.forecast.inputs import Parameters, lengths_known, lengths_ready
from training.forecast.verdicts import DOES_NOT_FIT, FITS, ORDER, DeviceForecast, Forecast
from training.work.queue import device_kinds


def forecast_make(
    *,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    evaluation_dataset: Dataset | None = None,
    parameters: Parameters,
    steps: int,
    system_prompt: str = "",
    reward_bytes: int = 0,
    devices: Sequence[Mapping[str, Any]] | None = None,
    launcher: str = ANYWHERE,
    held: Collection[str] = (),
) -> Forecast:
    """`parameters`: resolved. devices: those of workers, as devices_present; looked up where None: all
    on which a train of that launcher may run. held: names of parameters that no fix may touch."""
    if method.is_custom:
        return Forecast(missing="A custom program decides itself what it holds in memory.")
    lengths = lengths_ready(base_model, dataset, system_prompt)
    if isinstance(lengths, str):
        return Forecast(missing=lengths)

    kinds = device_kinds(method, dict(parameters))
    width = int(parameters.get("devices") or 1)
    present = presences() if devices is None else []
    here = devices_present(present, kinds, width, launcher) if devices is None else list(devices)
    # A step is tried on this platform's machines.
    may_try = launcher != RAY
    known = [device for device in here if float(device.get("memory_gb") or 0) > 0]
    obstacles = [_uncomputed(method, parameters, device) for device in known]
    computed = [device for device, text in zip(known, obstacles, strict=True) if not text]
    if known and not computed:
        return Forecast(missing=obstacles[0])

    try:
        forecaster = Forecaster(
            method=method,
            base_model=base_model,
            lengths=lengths,
            steps=steps,
            evaluation_lengths=lengths_known(base_model, evaluation_dataset, system_prompt),
            reward_bytes=reward_bytes,
        )
        # Of the first device, until it is known which is the best.
        batch = forecaster.batch(parameters, next(iter(computed), {}))
    except ShapeUnknown as unknown:
        # Nor can a step be tried, whose rows and answers are those of the largest batch.
        return Forecast(missing=str(unknown))

    if not known:
        missing = (
            "No running worker can take this train, or its memory is not known. You can queue the "
            "train; it starts when a worker can take it."
        )
        if here:
            missing = "The Ray cluster does not say how much memory its devices have."
        elif launcher == RAY:
            missing = (
                "The Ray cluster cannot be reached, so the memory of its devices is not known."
            )

        return Forecast(missing=missing, batch=asdict(batch))

    found = [(forecaster.forecast(parameters, device), device) for device in computed]
    certain = [pair for pair in found if not _may_be_less(pair[0], pair[1], parameters)]
    if not certain:
        missing = "What it takes there depends on whether the nodes' processors compute in half precision."
        return Forecast(missing=missing, batch=asdict(batch))

    found = certain
    found.sort(key=lambda pair: (ORDER.index(pair[0].verdict), -pair[0].usable))
    best, best_device = found[0]
    result = Forecast(
        devices=[forecast for forecast, _ in found],
        batch=asdict(forecaster.batch(parameters, best_device)),
        computed=forecaster.computed(parameters, best_device).counted,
        may_try=may_try,
    )
    if best.verdict == DOES_NOT_FIT and devices is None:
        result.away = is_one_away(present, kinds, width, launcher) or len(found) < len(here)
    if best.verdict != FITS:
        result.fixes = fixes_of(forecaster, parameters, best_device, best, held)

    return result


def _uncomputed(method: TrainingMethod, parameters: Parameters, device: Mapping[str, Any]) -> str:
    return Workload(method.recipe, parameters, Batch(1, 1, 1), Target.of(device)).uncomputed


def _may_be_less(
    forecast: DeviceForecast, device: Mapping[str, Any], parameters: Parameters
) -> bool:
    """Whether a train may take less than was computed: a cluster does not say whether its processors
    are good at half precision, and computed is the other."""
    is_unsure = "node" in device and forecast.kind == "cpu"
    return is_unsure and parameters.get("precision") == "auto" and forecast.verdict != FITS
