"""What a failed train's page offers: the lines of the log that show the cause, and copies of the
train with a remedy applied."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from jobs.log import log_read
from methods.models import TrainingMethod
from methods.schema import method_fields
from training.models import TrainRun

LOG_BYTES = 32 << 10
LINES = 6
# Codes that say that nobody knows.
UNKNOWN = ("unknown", "crashed")
# Words in the log by which a cause is known; the end of the log where none is found.
WORDS = {
    "out_of_memory": r"out of memory|cannot allocate|can't allocate|not enough memory|OutOfMemory|MemoryError"
    r"|bad_alloc|create a primitive",
    "disk_full": r"no space left|disk quota|file write failed|unexpected pos",
    "diverged": r"loss nan|loss inf|not a number",
    "gpu_error": r"cuda error|device-side assert|cublas|nccl",
    "template_fails": r"template",
    "reward_failed": r"reward",
}


@dataclass(frozen=True)
class Remedy:
    """A copy of the train with `changes` made to its parameters, in words."""

    words: str
    changes: dict[str, Any]

    def address(self, run: TrainRun) -> str:
        """The form of a copy, with the changes filled in."""
        form = reverse("training:form", args=[run.method.slug])
        query = urlencode({"copy": run.pk, "with": json.dumps(self.changes)})

        return f"{form}?{query}"


def evidence(run: TrainRun) -> list[str]:
    """The lines of the log that show why it failed, at most LINES; progress bars and the platform's
    own last message left out."""
    text = log_read(run, -LOG_BYTES, LOG_BYTES).text
    lines = []

    for raw_line in text.split("\n"):
        # Of a progress bar, which overwrites itself, the last state.
        line = raw_line.split("\r")[-1].rstrip()
        if line.startswith("Failed: "):
            break
        if line:
            lines.append(line)

    if words := WORDS.get(run.error_code):
        matching = [line for line in lines if re.search(words, line, re.IGNORECASE)]
        lines = matching or lines

    return lines[-LINES:]


def remedies(run: TrainRun) -> list[Remedy]:
    """What to try, the gentlest first. Nothing where only a person can tell."""
    if run.method.is_custom:
        return []

    changeable = _changeable(run.method)
    offered = []

    for remedy_for in REMEDIES.get(run.error_code, ()):
        remedy = remedy_for(run.parameters)
        if remedy is not None and changeable.issuperset(remedy.changes):
            offered.append(remedy)

    return offered


def _changeable(method: TrainingMethod) -> set[str]:
    """Names of the parameters that the method's form shows."""
    fields = method_fields(method).items()
    return {name for name, field in fields if not field.fixed and not field.hidden}


Parameters = dict[str, Any]


def _half_batch(parameters: Parameters) -> Remedy | None:
    """The effective batch stays, so the result does."""
    batch = parameters.get("batch_size", 1)
    writes_answers = "num_generations" in parameters or "ppo_epochs" in parameters
    if batch < 2 or batch % 2 or writes_answers:
        # A checkpoint holds the answers of a step, in batches of this size.
        return None

    half = batch // 2
    doubled = 2 * parameters.get("gradient_accumulation_steps", 1)
    changes = {"batch_size": half, "gradient_accumulation_steps": doubled}

    return Remedy(f"Batch size {half}, gradient accumulation {doubled}", changes)


def _checkpoint_activations(parameters: Parameters) -> Remedy | None:
    if parameters.get("gradient_checkpointing", True):
        return None

    return Remedy("Gradient checkpointing on", {"gradient_checkpointing": True})


def _half_tokens(parameters: Parameters) -> Remedy | None:
    for name, title in (
        ("max_tokens", "Max tokens"),
        ("max_completion_tokens", "Max answer tokens"),
    ):
        tokens = parameters.get(name, 0)
        if tokens >= 64:
            half = tokens // 2
            return Remedy(f"{title} {half:,}", {name: half})

    return None


def _tenth_of_the_rate(parameters: Parameters) -> Remedy | None:
    rate = parameters.get("learning_rate")
    if not rate:
        return None

    lower = float(f"{rate / 10:.3g}")
    return Remedy(f"Learning rate {lower:g}", {"learning_rate": lower})


def _fewer_checkpoints(parameters: Parameters) -> Remedy | None:
    if parameters.get("save_strategy") == "end" and parameters.get("save_total_limit") == 1:
        return None

    return Remedy("One checkpoint, at the end", {"save_strategy": "end", "save_total_limit": 1})


def _smaller_batch(parameters: Parameters) -> Remedy | None:
    if parameters.get("batch_size", 1) * parameters.get("gradient_accumulation_steps", 1) == 1:
        return None

    return Remedy(
        "Batch size 1, no accumulation", {"batch_size": 1, "gradient_accumulation_steps": 1}
    )


def _unquantised(parameters: Parameters) -> Remedy | None:
    if parameters.get("quantization", "none") == "none":
        return None

    return Remedy("No quantisation", {"quantization": "none"})


def _all_layers(parameters: Parameters) -> Remedy | None:
    if parameters.get("target_modules") == "all-linear":
        return None

    return Remedy("All linear layers", {"target_modules": "all-linear"})


def _no_options(parameters: Parameters) -> Remedy | None:
    if not parameters.get("more"):
        return None

    return Remedy("Without the other trainer options", {"more": {}})


def _no_time_limit(parameters: Parameters) -> Remedy | None:
    if not parameters.get("time_limit_minutes"):
        return None

    doubled = parameters["time_limit_minutes"] * 2
    return Remedy(f"Time limit {doubled:,} minutes", {"time_limit_minutes": doubled})


# Codes of a train that ran out of memory, and what can be done about it without changing what is
# learned.
OUT_OF_MEMORY = ("out_of_memory",)
LADDER = (_half_batch, _checkpoint_activations)
MEMORY = (*LADDER, _half_tokens)
REMEDIES: dict[str, tuple[Callable[[Parameters], Remedy | None], ...]] = {
    "out_of_memory": MEMORY,
    "diverged": (_tenth_of_the_rate,),
    "disk_full": (_fewer_checkpoints,),
    "batch_too_large": (_smaller_batch,),
    "no_gpu": (_unquantised,),
    "no_bitsandbytes": (_unquantised,),
    "no_such_modules": (_all_layers,),
    "context_length": (_half_tokens,),
    "bad_option": (_no_options,),
    "time_limit": (_no_time_limit,),
}


def changes_read(method: TrainingMethod, text: str) -> Parameters:
    """The changes that an address carries as JSON. What is no parameter is left out; what is no
    good value is refused by the form."""
    try:
        changes = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}

    if not isinstance(changes, dict):
        return {}

    changeable = _changeable(method)
    return {name: value for name, value in changes.items() if name in changeable}
