"""Whether a train fits a device, before it starts: the formulas of engine.forecast for what is asked for,
corrected by what trains of this house really took, with the error that is left.

The form asks while somebody types, so nothing here reads more than headers of files and a few rows of
the database. Where something that decides is not known there is no verdict, and `missing` says what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any

from django.db.models import prefetch_related_objects
from django.utils import timezone
from pydantic import ValidationError
from redis.exceptions import RedisError

from core.text import counted
from datasets_app.models import Dataset, TokenLengths
from datasets_app.services import token_lengths_get
from engine.forecast.batches import Batch
from engine.forecast.memory import TITLES, Memory, memory_forecast
from engine.forecast.shape import ModelShape, ShapeUnknown, shape_read
from engine.forecast.workload import WRITING, Target, Workload, largest_batch
from engine.schema.registry import RECIPES
from jobs.devices.machines import machine_key, machines_present
from jobs.devices.presence import workers_present
from jobs.models import Machine
from methods.models import TrainingMethod
from methods.schema import method_fields
from models_app.models import BaseModel
from training.models import StepMeasurement, TrainRun
from training.train.reward_resources import reward_models, scorers_named
from training.work.queue import device_kinds

FITS = "fits"
TIGHT = "tight"
DOES_NOT_FIT = "does_not_fit"
VERDICTS = {FITS: "Fits", TIGHT: "Tight", DOES_NOT_FIT: "Will not fit"}
# The verdict of a train as a whole is that of the device on which it fits best.
ORDER = (FITS, TIGHT, DOES_NOT_FIT)

# Of a device's memory, what a train can have: the system and the platform's own processes have theirs.
USABLE = {"cpu": 0.92, "cuda": 0.97}
# The error of the formulas alone, as a share: on a CPU nine in ten measured trains were within
# (benchmarks/forecast.py); on a GPU they have not been measured.
FORMULA_ERROR = {"cpu": 0.15, "cuda": 0.30}
# The least error after a correction by so many trains, and by the very configuration.
CORRECTED_ERROR = 0.08
ERROR_OF_ONE = 0.12
ERROR_OF_MEASURED = 0.04
# How many earlier trains are looked at, and the bounds of what they may change.
PAST_TRAINS = 12
FACTORS = (0.4, 2.5)
FIXES_OFFERED = 3
# A step measured the batch of a train whose tokens differ from its own by at most this share.
SAME_BATCH = 0.05
# The most that the schema allows.
MOST_ACCUMULATION = 4096
# A machine that was there so lately is expected back.
BACK_WITHIN = timedelta(days=1)

# What decides on memory: configurations that are alike in all of these take the same.
DECIDING = (
    "batch_size",
    "gradient_accumulation_steps",
    "max_tokens",
    "max_prompt_tokens",
    "max_completion_tokens",
    "num_generations",
    "adapter",
    "lora_rank",
    "lora_dropout",
    "target_modules",
    "use_dora",
    "precision",
    "quantization",
    "use_liger_kernel",
    "gradient_checkpointing",
    "packing",
    "beta",
    "kl_coef",
    "more",
    "devices",
    "strategy",
    "offload",
)
# Of these, a train whose peak corrects another's must have the same.
ALIKE = ("adapter", "quantization", "gradient_checkpointing", "packing", "strategy", "offload")

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Correction:
    """`factor`: what the formulas' result is multiplied by. `error`: what is left, as a share.
    `trains`, `steps`: how many earlier trains and tried steps it comes from. `is_measured`: this very
    configuration was tried."""

    factor: float
    error: float
    trains: int = 0
    steps: int = 0
    is_measured: bool = False

    @property
    def words(self) -> str:
        """What the figure rests on."""
        if self.is_measured:
            return "measured by one step"
        if not self.trains and not self.steps:
            return "computed; nothing like it was trained here yet"

        parts = []
        if self.trains:
            parts.append(counted(self.trains, "earlier train"))
        if self.steps:
            parts.append(counted(self.steps, "tried step"))

        return f"corrected by {' and '.join(parts)}"


@dataclass(frozen=True)
class DeviceForecast:
    """What the train takes on one kind of device, in bytes, and whether that is there. `parts`:
    [{"name", "title", "bytes"}], the largest first. `low` and `high`: the total, give or take its
    error."""

    kind: str
    name: str
    workers: int
    memory: int
    usable: int
    total: int
    low: int
    high: int
    parts: list[dict[str, Any]]
    moment: str
    verdict: str
    basis: str
    error: float

    @property
    def title(self) -> str:
        return VERDICTS[self.verdict]


@dataclass
class Forecast:
    """`devices`: one for each kind of device that the workers have, the best verdict first. `missing`:
    why there is none, in words for people. `fixes`: buttons, each with what the train would take then.
    `computed`: what the formulas alone say for the best device, and `batch`, its largest batch. `away`:
    a machine that could run it was here lately and is not now, so what does not fit here may fit there."""

    devices: list[DeviceForecast] = field(default_factory=list)
    missing: str = ""
    fixes: list[dict[str, Any]] = field(default_factory=list)
    batch: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    may_try: bool = False
    away: bool = False

    @property
    def verdict(self) -> str:
        """ "" where there is none."""
        return self.devices[0].verdict if self.devices else ""

    @property
    def cannot_fit(self) -> bool:
        return self.verdict == DOES_NOT_FIT and not self.away

    def refusal(self) -> str:
        """Why it cannot start, with the nearest that can."""
        device = self.devices[0]
        has = "there is" if device.kind == "cpu" else "the GPU has"
        text = (
            f"This train takes about {size_words(device.total)}, and {has} "
            f"{size_words(device.memory)}."
        )
        if not self.fixes:
            return f"{text} No smaller batch or length of it fits: choose a smaller base model."

        fix = self.fixes[0]
        return f"{text} {fix['label']}: {fix['effect']}."

    def as_dict(self) -> dict[str, Any]:
        devices = [asdict(device) | {"title": device.title} for device in self.devices]
        return {
            "verdict": self.verdict,
            "title": VERDICTS.get(self.verdict, ""),
            "missing": self.missing,
            "devices": devices,
            "fixes": self.fixes,
            "batch": self.batch,
            "may_try": self.may_try,
            "away": self.away,
        }

    def kept(self) -> dict[str, Any]:
        """What is recorded with the train: nothing where there was no verdict."""
        if not self.devices:
            return {}

        best = self.devices[0]
        return {
            "verdict": best.verdict,
            "title": best.title,
            "words": size_words(best.total),
            "device": best.name,
            "total": best.total,
            "error": best.error,
            "computed": self.computed,
            "memory": best.memory,
            "basis": best.basis,
        }


class Forecaster:
    """Forecasts of one train and of its variants: what is the same for all is looked up once."""

    def __init__(
        self,
        *,
        method: TrainingMethod,
        base_model: BaseModel,
        lengths: TokenLengths,
        steps: int,
        reward_bytes: int = 0,
    ) -> None:
        self.method = method
        self.base_model = base_model
        self.lengths = lengths
        self.steps = max(1, steps)
        self.reward_bytes = reward_bytes
        # Raises ShapeUnknown.
        self.shape: ModelShape = shape_read(base_model.path)
        self.pasts: dict[str, list[Past]] = {}

    def batch(self, parameters: Parameters) -> Batch:
        """Raises ShapeUnknown."""
        return batch_of(self.shape, self.method.recipe, parameters, self.lengths, self.steps)

    def computed(self, parameters: Parameters, device: Mapping[str, Any]) -> Memory:
        """By the formulas alone."""
        work = Workload(self.method.recipe, parameters, self.batch(parameters), Target.of(device))
        return memory_forecast(self.shape, work, reward_bytes=self.reward_bytes)

    def forecast(self, parameters: Parameters, device: Mapping[str, Any]) -> DeviceForecast:
        memory = self.computed(parameters, device)
        kind = str(device.get("kind", "cpu"))
        correction = self.correction(parameters, device)
        corrected = memory.scaled(correction.factor)

        # Ranks on a CPU have their shares of the machine's memory together; GPUs have one each.
        ranks = int(parameters.get("devices") or 1) if kind == "cpu" else 1
        total = corrected.total * ranks
        available = round(float(device.get("memory_gb") or 0) * 2**30) * ranks
        usable = round(available * USABLE.get(kind, 0.92))
        low = round(total * (1 - correction.error))
        high = round(total * (1 + correction.error))

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
            verdict=verdict_of(low, high, usable),
            basis=correction.words,
            error=round(correction.error, 3),
        )

    def correction(self, parameters: Parameters, device: Mapping[str, Any]) -> Correction:
        """By this very configuration where it was tried, else by the nearest earlier trains."""
        name = str(device.get("name", ""))
        if name not in self.pasts:
            self.pasts[name] = pasts_of(self, device)

        pasts = self.pasts[name]
        deciding = deciding_of(parameters)
        is_half = Target.of(device).half
        batch = self.batch(parameters)
        same = [
            past
            for past in pasts
            if past.is_step
            and past.deciding == deciding
            and past.is_half == is_half
            and is_same_batch(past.batch, batch)
        ]
        if same:
            return Correction(same[0].factor, ERROR_OF_MEASURED, steps=1, is_measured=True)

        alike = [past for past in pasts if past.is_alike(parameters)]
        own = [past for past in alike if past.is_own]
        return corrected_by(own or alike, str(device.get("kind", "cpu")), is_own=bool(own))


@dataclass(frozen=True)
class Past:
    """What a train or a tried step took, against what the formulas say of it. `is_own`: of the same
    base model. `is_half`: whether its device was found to compute well in bf16, which a busy processor
    may not be. `batch`: its largest."""

    factor: float
    batch: Batch
    deciding: dict[str, Any]
    is_step: bool
    is_own: bool
    is_half: bool

    def is_alike(self, parameters: Parameters) -> bool:
        return all(
            (self.deciding.get(name) or None) == (parameters.get(name) or None) for name in ALIKE
        )


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


def deciding_of(parameters: Parameters) -> dict[str, Any]:
    """The part of the parameters that decides on memory."""
    values = {name: parameters[name] for name in DECIDING if name in parameters}
    # It matters whether there is dropout, not how much; and the same of a reference.
    for name in ("lora_dropout", "beta", "kl_coef"):
        if name in values:
            values[name] = bool(values[name])

    scorers = sorted(scorers_named(dict(parameters)))
    return values | {"scorers": scorers} if scorers else values


def is_same_batch(one: Batch, other: Batch) -> bool:
    """Whether what was measured of one holds for the other."""
    if (one.rows, one.answer) != (other.rows, other.answer):
        return False

    sizes = ((one.tokens, other.tokens), (one.longest, other.longest))
    return all(math.isclose(mine, its, rel_tol=SAME_BATCH) for mine, its in sizes)


def batch_of(
    shape: ModelShape,
    recipe: str,
    parameters: Parameters,
    lengths: TokenLengths,
    steps: int,
) -> Batch:
    """The largest batch, at the dataset's real lengths. Raises ShapeUnknown."""
    return largest_batch(
        shape,
        recipe,
        parameters,
        rows=lengths.rows,
        prompts=lengths.prompts,
        steps=steps,
    )


# What was measured before


def pasts_of(forecaster: Forecaster, device: Mapping[str, Any]) -> list[Past]:
    """Earlier trains of the same recipe on that device with what they took, the newest first; before
    them steps that were tried."""
    return [*_tried_steps(forecaster, device), *_earlier_trains(forecaster, device)]


def _tried_steps(forecaster: Forecaster, device: Mapping[str, Any]) -> list[Past]:
    steps = StepMeasurement.objects.filter(
        method__recipe=forecaster.method.recipe,
        base_model=forecaster.base_model,
        peak_bytes__isnull=False,
        device__name=device.get("name", ""),
    )
    found = []
    for step in steps[:PAST_TRAINS]:
        reward_bytes = reward_model_bytes(step.parameters, None)
        if reward_bytes is None:
            continue

        work = Workload(
            forecaster.method.recipe, step.parameters, Batch(**step.batch), Target.of(step.device)
        )
        memory = memory_forecast(forecaster.shape, work, reward_bytes=reward_bytes)
        factor = factor_of(memory, int(step.peak_bytes or 0))
        found.append(
            Past(
                factor,
                work.batch,
                deciding_of(step.parameters),
                is_step=True,
                is_own=True,
                is_half=work.target.half,
            )
        )

    return found


def _earlier_trains(forecaster: Forecaster, device: Mapping[str, Any]) -> list[Past]:
    runs = TrainRun.objects.filter(
        status=TrainRun.Status.FINISHED,
        method__recipe=forecaster.method.recipe,
        facts__device__name=device.get("name", ""),
        last_metrics__peak_memory_gb__gt=0,
    ).select_related("base_model", "dataset")
    own = runs.filter(base_model=forecaster.base_model)[:PAST_TRAINS]
    others = runs.exclude(base_model=forecaster.base_model)[:PAST_TRAINS]
    trains = [*own, *others]
    prefetch_related_objects(trains, "dataset__token_lengths")

    found = []
    for run in trains:
        measured = _factor_of_train(run, forecaster)
        if measured is not None:
            factor, batch = measured
            is_own = run.base_model_id == forecaster.base_model.pk
            is_half = Target.of(run.facts["device"]).half
            found.append(
                Past(
                    factor,
                    batch,
                    deciding_of(run.parameters),
                    is_step=False,
                    is_own=is_own,
                    is_half=is_half,
                )
            )

    return found


def _factor_of_train(run: TrainRun, forecaster: Forecaster) -> tuple[float, Batch] | None:
    """(factor, its largest batch). None where its base model, its reward models or its counts are gone,
    or where it cannot be compared."""
    device = run.facts.get("device") or {}
    tokenizer = run.base_model.tokenizer_sha256
    counted_lengths = (
        lengths
        for lengths in run.dataset.token_lengths.all()
        if lengths.ready and lengths.tokenizer == tokenizer
    )
    lengths = next(counted_lengths, None)
    reward_bytes = reward_model_bytes(run.parameters, None)
    if lengths is None or reward_bytes is None or run.attempt > 1:
        return None

    try:
        shape = shape_read(run.base_model.path)
        batch = batch_of(shape, forecaster.method.recipe, run.parameters, lengths, run.step)
    except (ShapeUnknown, KeyError, TypeError, ValueError):
        return None

    work = Workload(forecaster.method.recipe, run.parameters, batch, Target.of(device))
    if work.is_offloaded:
        return None

    measured = float(run.last_metrics["peak_memory_gb"]) * 2**30
    memory = memory_forecast(shape, work, reward_bytes=reward_bytes)
    return factor_of(memory, round(measured)), batch


def factor_of(memory: Memory, measured: int) -> float:
    """How much more the train took than the formulas say, what is known left out on both sides."""
    known = memory.counted - memory.computed
    return max(0.1, (measured - known) / max(1, memory.computed))


# Devices


def presences() -> list[dict[str, Any]]:
    """Of the training workers; none while the queue is away."""
    try:
        return workers_present()
    except RedisError:
        return []


def devices_present(
    present: Sequence[Mapping[str, Any]],
    kinds: Collection[str] = ("cpu", "cuda"),
    width: int = 1,
) -> list[dict[str, Any]]:
    """The kinds of devices that these workers have and that can run a train of `width` devices, each
    once, with "workers": how many have it. kinds: of "cpu" and "cuda", those that can run it at all."""
    # Workers of several slots on one host have its memory together.
    slots = Counter(presence.get("host") for presence in present if _has_all_processors(presence))
    found: dict[tuple[Any, ...], dict[str, Any]] = {}

    for presence in present:
        device = dict(presence["device"])
        if device.get("kind") not in kinds or int(presence.get("devices", width)) < width:
            continue

        if presence.get("host") is not None and _has_all_processors(presence):
            memory = float(device.get("memory_gb") or 0)
            device["memory_gb"] = round(memory / slots[presence["host"]], 1)

        key = (device.get("kind"), device.get("name"), device.get("memory_gb"))
        kind = found.setdefault(key, {**device, "workers": 0})
        kind["workers"] += 1

    return list(found.values())


def _has_all_processors(presence: Mapping[str, Any]) -> bool:
    device = presence["device"]
    return bool(device.get("kind") == "cpu" and device.get("identity", "cpu") == "cpu")


def is_one_away(present: Iterable[dict[str, Any]], kinds: Collection[str], width: int) -> bool:
    """Whether a machine that could run such a train was here lately and is not now."""
    here: set[str] = set()
    for machine in machines_present(present):
        # A part of a machine, whose workers know nothing of one another, stands for all of it.
        slots = (machine.slot, machine.slot.partition("/")[0])
        here |= {machine_key(machine.host, slot) for slot in slots}

    lately = Machine.objects.filter(
        kind__in=kinds, devices__gte=width, seen_at__gt=timezone.now() - BACK_WITHIN
    )
    return any(machine_key(machine.host, machine.slot) not in here for machine in lately)


def lengths_ready(base_model: BaseModel, dataset: Dataset) -> TokenLengths | str:
    """How long the rows are, or why that is not known, in words for people."""
    lengths = token_lengths_get(
        dataset=dataset,
        model_path=str(base_model.path),
        tokenizer_sha256=base_model.tokenizer_sha256,
    )
    if lengths.error:
        return f"The tokens of the dataset could not be counted. {lengths.error}"
    if not lengths.ready:
        return "The tokens of the dataset are being counted."

    return lengths


def verdict_of(low: int, high: int, usable: int) -> str:
    if high <= usable:
        return FITS

    return DOES_NOT_FIT if low > usable else TIGHT


def size_words(size: int) -> str:
    """As pages show memory: GB of 2^30 bytes, with a digit behind the point below 100, and MB below
    one."""
    value = size / 2**30
    if value < 0.95:
        return f"{size / 2**20:,.0f} MB"

    return f"{value:,.0f} GB" if value >= 100 else f"{value:.1f} GB"


# The whole


def forecast_make(
    *,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    parameters: Parameters,
    steps: int,
    reward_bytes: int = 0,
    devices: Sequence[Mapping[str, Any]] | None = None,
) -> Forecast:
    """`parameters`: resolved. devices: those of workers, as devices_present; looked up where None."""
    if method.is_custom:
        return Forecast(missing="A custom program decides itself what it holds in memory.")
    if Workload(method.recipe, parameters, Batch(1, 1, 1), Target("cuda", True)).is_offloaded:
        return Forecast(
            missing="What a train takes whose weights lie in main memory is not computed."
        )

    lengths = lengths_ready(base_model, dataset)
    if isinstance(lengths, str):
        return Forecast(missing=lengths)

    kinds = device_kinds(method, dict(parameters))
    width = int(parameters.get("devices") or 1)
    present = presences() if devices is None else []
    here = devices_present(present, kinds, width) if devices is None else list(devices)
    known = [device for device in here if float(device.get("memory_gb") or 0) > 0]

    try:
        forecaster = Forecaster(
            method=method,
            base_model=base_model,
            lengths=lengths,
            steps=steps,
            reward_bytes=reward_bytes,
        )
        batch = forecaster.batch(parameters)
    except ShapeUnknown as unknown:
        return Forecast(missing=f"{unknown} Try one step to know.", may_try=bool(known))

    if not known:
        missing = "No worker is there whose memory is known and that can run it."
        return Forecast(missing=missing, batch=asdict(batch))

    found = [(forecaster.forecast(parameters, device), device) for device in known]
    found.sort(key=lambda pair: (ORDER.index(pair[0].verdict), -pair[0].usable))
    best, best_device = found[0]
    result = Forecast(
        devices=[forecast for forecast, _ in found],
        batch=asdict(batch),
        computed=forecaster.computed(parameters, best_device).counted,
        may_try=True,
    )
    if best.verdict == DOES_NOT_FIT and devices is None:
        result.away = is_one_away(present, kinds, width)
    if best.verdict != FITS:
        result.fixes = fixes_of(forecaster, parameters, best_device, best)

    return result


def reward_model_bytes(parameters: Parameters, reader: Any) -> int | None:
    """The weights of the trained models that score the answers, as they lie on disk; None where one is
    not there. reader: None for everybody's."""
    numbers = scorers_named(dict(parameters))
    if not numbers:
        return 0

    runs = reward_models(reader).filter(pk__in=numbers).select_related("base_model")
    sizes = [run.base_model.size_bytes for run in runs]
    return sum(sizes) if len(sizes) == len(numbers) else None


# Time

# The error of a time that one step was measured for, as a share: evaluation and saving are not in it.
ERROR_OF_A_STEP = 0.3


def seconds_by_step(
    *,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    parameters: Parameters,
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
    lengths = lengths_ready(base_model, dataset)
    if "max_tokens" in parameters and not isinstance(lengths, str) and lengths.rows:
        limit = int(parameters["max_tokens"])
        rows = sum(lengths.rows.values())
        tokens = sum(min(int(length), limit) * count for length, count in lengths.rows.items())
        share = tokens / rows * found.batch["rows"] / found.batch["tokens"]

    return float(found.step_seconds or 0.0) * share * steps


# Fixes


def fixes_of(
    forecaster: Forecaster,
    parameters: Parameters,
    device: Mapping[str, Any],
    now: DeviceForecast,
) -> list[dict[str, Any]]:
    """[{"label", "effect", "set", "total", "verdict"}] of changes with which the train fits, or, where
    none does, takes less: the gentlest first."""
    fitting: list[dict[str, Any]] = []
    smaller: list[dict[str, Any]] = []

    for label, changes in variants(parameters, forecaster, device):
        try:
            forecast = forecaster.forecast({**parameters, **changes}, device)
        except ShapeUnknown:
            continue

        fix = {
            "label": label,
            "effect": size_words(forecast.total),
            "set": changes,
            "total": forecast.total,
            "verdict": forecast.verdict,
        }
        if forecast.verdict == FITS:
            fitting.append(fix)
        elif forecast.total < 0.9 * now.total and forecast.verdict != DOES_NOT_FIT:
            smaller.append(fix)

    return (fitting or smaller)[:FIXES_OFFERED]


def _changeable(method: TrainingMethod) -> set[str]:
    """Names of the parameters that the method's form shows."""
    fields = method_fields(method).items()
    return {name for name, item in fields if not item.fixed and not item.hidden}


def variants(
    parameters: Parameters, forecaster: Forecaster, device: Mapping[str, Any]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """(label, changes) of what takes less: one of each kind, as gentle as fits, and then together."""
    allowed = _allowed(forecaster.method, parameters)
    fits = _first_that_fits(forecaster, parameters, device, allowed)
    single = [
        *fits(_smaller_batches(parameters)),
        *fits(_checkpointing(parameters)),
        *fits(_shorter(parameters, forecaster.batch(parameters))),
        *fits(_quantised(parameters, device)),
        *fits(_split(parameters, forecaster.method.recipe, device)),
        *fits(_adapter(parameters)),
    ]
    if single:
        return single

    smallest = [choice for choice in _smaller_batches(parameters) if allowed(choice[1])][-1:]
    together = [*smallest, *filter(lambda choice: allowed(choice[1]), _checkpointing(parameters))]

    combined: dict[str, Any] = {}
    labels = []
    for label, changes in together:
        combined |= changes
        labels.append(label.removeprefix("Use "))

    choices = []
    if len(labels) > 1:
        choices.append((f"Use {' and '.join(labels)}", combined))
        for label, changes in _shorter({**parameters, **combined}, forecaster.batch(parameters)):
            text = f"Use {', '.join(labels)} and {label.removeprefix('Use ')}"
            choices.append((text, {**combined, **changes}))

    return fits(choices) or together


def _allowed(method: TrainingMethod, parameters: Parameters) -> Callable[[Mapping[str, Any]], bool]:
    """A function that says whether the method's form has these changes, and whether the recipe takes
    them."""
    changeable = _changeable(method)
    schema = RECIPES[method.recipe].parameters

    def allowed(changes: Mapping[str, Any]) -> bool:
        if not changeable.issuperset(changes):
            return False

        try:
            schema.model_validate({**parameters, **changes})
        except ValidationError:
            return False

        return True

    return allowed


def _first_that_fits(
    forecaster: Forecaster,
    parameters: Parameters,
    device: Mapping[str, Any],
    allowed: Callable[[Mapping[str, Any]], bool],
) -> Any:
    def first(choices: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
        for label, changes in choices:
            if not allowed(changes):
                continue

            try:
                forecast = forecaster.forecast({**parameters, **changes}, device)
            except ShapeUnknown:
                continue

            if forecast.verdict == FITS:
                return [(label, changes)]

        return []

    return first


def _smaller_batches(parameters: Parameters) -> Iterable[tuple[str, dict[str, Any]]]:
    """Half of the batch with twice the accumulation, and so on: the effective batch stays, or, of what
    halves do not divide, nearly. Where answers are written all of a step's are written together, so the
    batch alone becomes smaller."""
    batch = int(parameters["batch_size"])
    effective = batch * int(parameters.get("gradient_accumulation_steps") or 1)
    least = 2 if "desirable_weight" in parameters else 1

    while batch > least:
        batch = max(least, batch // 2)
        accumulation = min(MOST_ACCUMULATION, round(effective / batch))
        yield (
            f"Use batch {batch}",
            {"batch_size": batch, "gradient_accumulation_steps": accumulation},
        )


def _checkpointing(parameters: Parameters) -> list[tuple[str, dict[str, Any]]]:
    if parameters.get("gradient_checkpointing"):
        return []

    return [("Use gradient checkpointing", {"gradient_checkpointing": True})]


def _shorter(parameters: Parameters, batch: Batch) -> Iterable[tuple[str, dict[str, Any]]]:
    """Rows or answers of half the length, a quarter …"""
    name = "max_tokens" if "max_tokens" in parameters else "max_completion_tokens"
    longest = batch.longest if name == "max_tokens" else batch.answer
    tokens = 2 ** math.ceil(math.log2(max(64, longest)))

    while tokens > 128:
        tokens //= 2
        if tokens < int(parameters[name]):
            yield f"Use {tokens:,} tokens", {name: tokens}


def _quantised(
    parameters: Parameters, device: Mapping[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    has_gpu = device.get("kind") == "cuda"
    if (
        not has_gpu
        or parameters.get("adapter") != "lora"
        or parameters.get("quantization") != "none"
    ):
        return []

    return [("Use 4-bit weights", {"quantization": "4-bit"})]


def _split(
    parameters: Parameters, recipe: str, device: Mapping[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """The model over all devices of the train, in place of a copy on each."""
    devices = int(parameters.get("devices") or 1)
    is_split = parameters.get("strategy") == "shard"
    if devices == 1 or is_split or recipe in WRITING or device.get("kind") != "cuda":
        return []

    return [(f"Split the model over its {devices} devices", {"strategy": "shard"})]


def _adapter(parameters: Parameters) -> list[tuple[str, dict[str, Any]]]:
    if parameters.get("adapter") != "none":
        return []

    return [("Use a LoRA adapter", {"adapter": "lora"})]
