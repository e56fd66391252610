"""What a failed train's page offers: the lines of the log that prove the cause, and copies with the
remedy made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from methods.models import TrainingMethod
from methods.schema import method_fields
from training.models import TrainRun
from training.pages.log import log_read

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
        query = urlencode({"copy": run.pk, "with": json.dumps(self.changes)})
        return f"{reverse('training:form', args=[run.method.slug])}?{query}"


def evidence(run: TrainRun) -> list[str]:
    """The lines of the log that show why it failed, at most LINES; progress bars and our own last
    words left out."""
    text = log_read(run, -LOG_BYTES, LOG_BYTES).text
    lines = [line.split("\r")[-1].rstrip() for line in text.split("\n")]
    if (
        ended := next(
            (index for index, line in enumerate(lines) if line.startswith("Failed: ")), None
        )
    ) is not None:
        lines = lines[:ended]

    lines = [line for line in lines if line.strip()]
    if words := WORDS.get(run.error_code):
        told = [line for line in lines if re.search(words, line, re.IGNORECASE)]
        lines = told or lines

    return lines[-LINES:]


def remedies(run: TrainRun) -> list[Remedy]:
    """What to try, the gentlest first. Nothing where only a person can tell."""
    if run.method.is_custom:
        return []

    fields = method_fields(run.method)
    offered = [
        found
        for remedy in REMEDIES.get(run.error_code, ())
        if (found := remedy(run.parameters)) is not None
    ]
    return [
        remedy
        for remedy in offered
        if all(
            name in fields and not fields[name].fixed and not fields[name].hidden
            for name in remedy.changes
        )
    ]


Parameters = dict[str, Any]


def _half_batch(given: Parameters) -> Remedy | None:
    """The effective batch stays, so the result does."""
    batch, accumulation = given.get("batch_size", 1), given.get("gradient_accumulation_steps", 1)
    if batch < 2 or batch % 2 or "num_generations" in given:
        return None

    half = batch // 2
    changes = {"batch_size": half, "gradient_accumulation_steps": accumulation * 2}
    return Remedy(f"Batch size {half}, gradient accumulation {accumulation * 2}", changes)


def _checkpoint_activations(given: Parameters) -> Remedy | None:
    if given.get("gradient_checkpointing", True):
        return None

    return Remedy("Gradient checkpointing on", {"gradient_checkpointing": True})


def _half_tokens(given: Parameters) -> Remedy | None:
    for name, title in (
        ("max_tokens", "Max tokens"),
        ("max_completion_tokens", "Max completion tokens"),
    ):
        if given.get(name, 0) >= 64:
            return Remedy(f"{title} {given[name] // 2:,}", {name: given[name] // 2})

    return None


def _tenth_of_the_rate(given: Parameters) -> Remedy | None:
    rate = given.get("learning_rate")
    if not rate:
        return None

    lower = float(f"{rate / 10:.3g}")
    return Remedy(f"Learning rate {lower:g}", {"learning_rate": lower})


def _fewer_checkpoints(given: Parameters) -> Remedy | None:
    if given.get("save_strategy") == "end" and given.get("save_total_limit") == 1:
        return None

    return Remedy("One checkpoint, at the end", {"save_strategy": "end", "save_total_limit": 1})


def _smaller_batch(given: Parameters) -> Remedy | None:
    if given.get("batch_size", 1) * given.get("gradient_accumulation_steps", 1) == 1:
        return None

    return Remedy(
        "Batch size 1, no accumulation", {"batch_size": 1, "gradient_accumulation_steps": 1}
    )


def _unquantised(given: Parameters) -> Remedy | None:
    if given.get("quantization", "none") == "none":
        return None

    return Remedy("No quantisation", {"quantization": "none"})


def _all_layers(given: Parameters) -> Remedy | None:
    if given.get("target_modules") == "all-linear":
        return None

    return Remedy("All linear layers", {"target_modules": "all-linear"})


def _no_options(given: Parameters) -> Remedy | None:
    return Remedy("Without the other trainer options", {"more": {}}) if given.get("more") else None


def _no_time_limit(given: Parameters) -> Remedy | None:
    if not given.get("time_limit_minutes"):
        return None

    doubled = given["time_limit_minutes"] * 2
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
    """The changes in an address; what is no parameter is left out, and of what is no good value the
    form tells."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}

    known = {
        name for name, item in method_fields(method).items() if not item.fixed and not item.hidden
    }
    return (
        {name: value for name, value in found.items() if name in known}
        if isinstance(found, dict)
        else {}
    )
