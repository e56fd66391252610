"""Everything a train imports, imported ahead: a train that is forked from a warm process starts
without delay.

Nothing here may run a tensor operation. The first one starts a pool of threads, a fork does not
copy threads, and the child would wait for them for ever. Nothing may wake a GPU either: CUDA
refuses to work in a fork of a process in which it has worked, and to be asked whether there is a
GPU is work enough. A train that a fork cannot run gets a fresh process."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

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
    "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer",
    "trl.trainer.kto_trainer",
    "trl.trainer.reward_trainer",
    "trl.trainer.grpo_trainer",
    *(f"engine.recipes.{name}" for name in RECIPES),
)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3")


def load() -> None:
    # Libraries ask for a GPU while they are imported. This way torch asks the driver's monitor,
    # which wakes nothing.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # It asks what the GPU can do, which wakes it. peft imports it where it finds it.
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
    for name in MODULES:
        importlib.import_module(name)

    for name in ARCHITECTURES:
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def can_train(parameters: dict[str, Any]) -> bool:
    """Whether this process, a fork of a warm one, can run a train of these parameters. It cannot
    where bitsandbytes is needed, nor on a GPU that the warm process has woken all the same, as some
    library may on its import."""
    torch = sys.modules.get("torch")
    is_woken = torch is not None and torch.cuda._is_in_bad_fork()
    return not is_woken and parameters.get("quantization", "none") == "none"
