"""Changes with which a train fits, each with what it would take then."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from core.text import counted
from datasets_app.models import TokenLengths
from engine.forecast.shape import ShapeUnknown
from engine.forecast.workload import WRITING
from engine.schema.registry import RECIPES
from methods.models import TrainingMethod
from methods.schema import method_fields
from training.forecast.forecaster import Forecaster
from training.forecast.inputs import Parameters
from training.forecast.verdicts import DOES_NOT_FIT, FITS, DeviceForecast, size_words

FIXES_OFFERED = 3
# The most that the schema allows.
MOST_ACCUMULATION = 4096
# No limit is offered at which a larger share of the rows loses its whole answer.
MOST_LOST = 0.5


def fixes_of(
    forecaster: Forecaster,
    parameters: Parameters,
    device: Mapping[str, Any],
    now: DeviceForecast,
    held: Collection[str] = (),
) -> list[dict[str, Any]]:
    """[{"label", "effect", "set", "total", "verdict"}] of changes with which the train fits, or, where
    none does, takes less: the gentlest first. held: names of parameters that none of them may touch."""
    fitting: list[dict[str, Any]] = []
    smaller: list[dict[str, Any]] = []

    for label, changes in variants(parameters, forecaster, device, held):
        try:
            forecast = forecaster.forecast({**parameters, **changes}, device)
        except ShapeUnknown:
            continue

        fix = {
            "label": label,
            "effect": size_words(forecast.total) + _cut_words(forecaster.lengths, changes),
            "set": changes,
            "total": forecast.total,
            "verdict": forecast.verdict,
        }
        if forecast.verdict == FITS:
            fitting.append(fix)
        elif forecast.total < 0.9 * now.total and forecast.verdict != DOES_NOT_FIT:
            smaller.append(fix)

    return (fitting or smaller)[:FIXES_OFFERED]


def variants(
    parameters: Parameters,
    forecaster: Forecaster,
    device: Mapping[str, Any],
    held: Collection[str] = (),
) -> Iterable[tuple[str, dict[str, Any]]]:
    """(label, changes) of what takes less: one of each kind, as gentle as fits, and then together."""
    recipe = forecaster.method.recipe
    allowed = _allowed(forecaster.method, parameters, held)
    fits = _first_that_fits(forecaster, parameters, device, allowed)
    single = [
        *fits(_smaller_batches(parameters, recipe)),
        *fits(_checkpointing(parameters)),
        *fits(_shorter(parameters, forecaster, device)),
        *fits(_quantised(parameters, device)),
        *fits(_split(parameters, recipe, device)),
        *fits(_adapter(parameters)),
    ]
    if single:
        return single

    smallest = [choice for choice in _smaller_batches(parameters, recipe) if allowed(choice[1])][
        -1:
    ]
    together = [*smallest, *filter(lambda choice: allowed(choice[1]), _checkpointing(parameters))]

    combined: dict[str, Any] = {}
    labels = []
    for label, changes in together:
        combined |= changes
        labels.append(label.removeprefix("Use "))

    choices = []
    if len(labels) > 1:
        choices.append((f"Use {' and '.join(labels)}", combined))
        for label, changes in _shorter({**parameters, **combined}, forecaster, device):
            text = f"Use {', '.join(labels)} and {label.removeprefix('Use ')}"
            choices.append((text, {**combined, **changes}))

    return fits(choices) or together


def _allowed(
    method: TrainingMethod, parameters: Parameters, held: Collection[str] = ()
) -> Callable[[Mapping[str, Any]], bool]:
    """A function that says whether the method's form has these changes, none of them `held`, and whether
    the recipe takes them."""
    changeable = _changeable(method) - set(held)
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


def _changeable(method: TrainingMethod) -> set[str]:
    """Names of the parameters that the method's form shows."""
    fields = method_fields(method).items()
    return {name for name, item in fields if not item.fixed and not item.hidden}


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


def _smaller_batches(parameters: Parameters, recipe: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """The gentlest first: half of the batch with twice the accumulation, and so on, so that the effective
    batch stays, or, of what halves do not divide, nearly. All answers of a step are written together,
    however they are divided: where answers are written, then fewer of them."""
    batch = int(parameters["batch_size"])
    accumulation = int(parameters.get("gradient_accumulation_steps") or 1)
    effective = batch * accumulation
    least = 2 if "desirable_weight" in parameters else 1

    for size in _halves(batch, least):
        more = min(MOST_ACCUMULATION, round(effective / size))
        yield f"Use batch {size}", {"batch_size": size, "gradient_accumulation_steps": more}

    if recipe not in WRITING:
        return

    fewer = [
        *((batch, less) for less in _halves(accumulation, 1)),
        *((size, accumulation) for size in _halves(batch, least)),
        *((size, 1) for size in _halves(batch, least)),
    ]
    devices = int(parameters.get("devices") or 1)
    for size, less in sorted(fewer, key=lambda pair: -pair[0] * pair[1]):
        changes = {"batch_size": size, "gradient_accumulation_steps": less}
        yield f"Use {size * less * devices:,} answers a step", changes


def _halves(number: int, least: int) -> Iterable[int]:
    """A half, a quarter …, down to `least`."""
    while number > least:
        number = max(least, number // 2)
        yield number


def _checkpointing(parameters: Parameters) -> list[tuple[str, dict[str, Any]]]:
    if parameters.get("gradient_checkpointing"):
        return []

    return [("Use gradient checkpointing", {"gradient_checkpointing": True})]


def _shorter(
    parameters: Parameters, forecaster: Forecaster, device: Mapping[str, Any]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Rows or answers of half the length, a quarter …, as long as most rows keep something to learn."""
    batch = forecaster.batch(parameters, device)
    name = "max_tokens" if "max_tokens" in parameters else "max_completion_tokens"
    longest = batch.longest if name == "max_tokens" else batch.answer
    tokens = 2 ** math.ceil(math.log2(max(64, longest)))

    while tokens > 128:
        tokens //= 2
        if tokens < int(parameters[name]) and _keeps_most(forecaster.lengths, name, tokens):
            yield f"Use {tokens:,} tokens", {name: tokens}


def _keeps_most(lengths: TokenLengths, name: str, tokens: int) -> bool:
    if name != "max_tokens":
        return True

    counts = lengths.cut_by(tokens)
    return bool(counts["lost"] <= MOST_LOST * counts["total"])


def _cut_words(lengths: TokenLengths, changes: Mapping[str, Any]) -> str:
    """What a shorter limit does to the rows."""
    if "max_tokens" not in changes:
        return ""

    cut = lengths.cut_by(changes["max_tokens"])["cut"]
    return f", cuts {counted(cut, 'row')}" if cut else ""


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
