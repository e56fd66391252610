"""Tiny models whose weights are packed in a few bits, as large ones are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.families.maker import family_model
from tests.tiny import tiny_model

BLOCK = 16


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def eight_bits_make(folder: Path) -> Path:
    """A tiny Llama as DeepSeek and Qwen publish theirs: linear layers in fp8, a scale for each
    block."""
    tiny_model(folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        value = weights[name]
        rows, columns = (side // BLOCK for side in value.shape)
        scale = value.view(rows, BLOCK, columns, BLOCK).abs().amax((1, 3)) / 448
        wide = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        weights[name] = (value / wide).to(torch.float8_e4m3fn)
        weights[name + "_scale_inv"] = scale

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    packing = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
    }
    change(folder / "config.json", quantization_config=packing)
    return folder


def four_bits_make(folder: Path) -> Path:
    """A tiny gpt-oss as it is published: experts in MXFP4, everything else in bf16."""
    family_model(folder, "gpt_oss")
    weights = {
        name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()
    }
    random = torch.Generator().manual_seed(3)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = weights.pop(name).shape
        shape = experts, rows, columns // 32
        weights[name + "_blocks"] = torch.randint(
            0, 256, (*shape, 16), generator=random, dtype=torch.uint8
        )
        weights[name + "_scales"] = torch.randint(
            115, 122, shape, generator=random, dtype=torch.uint8
        )

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    return folder
