"""Everything a train imports, imported ahead: a train that is forked from a warm process starts
without delay.

Nothing here may run a tensor operation. The first one starts a pool of threads, a fork does not
copy threads, and the child would wait for them for ever. Nothing may initialise CUDA either: it
refuses to work in a fork of a process that initialised it, and asking whether there is a GPU
already does so. A train that a fork cannot run gets a fresh process."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from engine.process.waiting import threads_spin_briefly
from engine.schema.registry import RECIPES

MODULES = (
    "torch",
    "torch._dynamo",
    "transformers",
    "transformers.generation.utils",
    "transformers.trainer",
    "transformers.integrations.peft",
    "transformers.models.auto.modeling_auto",
    "peft",
    "datasets",
    "accelerate",
    # Each recipe imports its trainer.
    *(recipe.module for recipe in RECIPES.values()),
)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3")


def load() -> None:
    """Import it all into this process, without bitsandbytes."""
    threads_spin_briefly()
    # Libraries ask for a GPU while they are imported. This way torch asks the driver's monitor,
    # which does not initialise CUDA.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # peft imports bitsandbytes where it finds it, and that asks what the GPU can do, which
    # initialises CUDA.
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]

    for name in MODULES:
        importlib.import_module(name)

    for name in ARCHITECTURES:
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def can_train(parameters: dict[str, Any]) -> bool:
    """Whether this process, a fork of a warm one, can run a train of these parameters. It cannot
    where bitsandbytes is needed, nor where the warm process has initialised CUDA all the same, as
    some library may on its import."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda._is_in_bad_fork():
        return False

    return bool(parameters.get("quantization", "none") == "none")
