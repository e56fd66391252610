"""An adapter's files on a model: what merging sums and what a train carries on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError

from engine.loading.architecture import Refused, reason


def adapter_put(model: Any, config: PeftConfig, folder: Path, *, assign: bool = False) -> Any:
    """`model` with the adapter of `config`, whose weights are in `folder` (a PeftModel).

    assign: the adapter's tensors are those that were read, as they are; else their numbers are
    copied into tensors on the device of each layer. Raises Refused where they do not fit the
    model, or are not all there."""
    try:
        adapted = get_peft_model(model, config, low_cpu_mem_usage=assign)
        weights = _weights_read(folder)
        report: Any = set_peft_model_state_dict(adapted, weights, low_cpu_mem_usage=assign)
    except (RuntimeError, ValueError, KeyError) as error:
        raise Refused(
            "The adapter does not fit this base model, so it was trained on another one: "
            f"{reason(error)}"
        ) from error

    if report.unexpected_keys:
        raise Refused(
            "The adapter does not fit this base model, so it was trained on another one: the model "
            f"has no place for {report.unexpected_keys[0]}."
        )

    missing = [name for name in report.missing_keys if ".lora_" in name]
    if missing:
        raise Refused(
            f"The adapter's file lacks {len(missing)} of its weights, such as {missing[0]}."
        )

    return adapted


def _weights_read(folder: Path) -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = load_peft_weights(str(folder), device="cpu")
    except (SafetensorError, OSError) as error:
        raise Refused(
            f"The adapter's file is cut or damaged and cannot be read: {reason(error)}"
        ) from error

    return weights
