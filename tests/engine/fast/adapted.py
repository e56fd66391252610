"""A tiny model with an adapter that has learned something, though nothing sensible."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def with_adapter(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(5)
    model = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", **options)
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model.train()
