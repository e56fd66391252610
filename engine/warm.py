"""Everything a train imports, imported ahead: a train that is forked from a warm process starts without delay.

Nothing here may run a tensor operation. The first one starts a pool of threads, a fork does not copy threads, and the
child would wait for them for ever.
"""

from __future__ import annotations

import importlib

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
    "engine.recipes.sft.recipe",
    "engine.recipes.dpo.recipe",
    "engine.recipes.kto.recipe",
    "engine.recipes.reward.recipe",
    "engine.recipes.grpo.recipe",
    "engine.recipes.ppo.recipe",
)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3")


def load() -> None:
    for name in MODULES:
        importlib.import_module(name)
    for name in ARCHITECTURES:
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
