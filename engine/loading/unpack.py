"""Weights that come packed in eight or four bits (fp8, MXFP4), unpacked to bf16: a model that can
be trained.

Tensor by tensor, so that memory holds one file of the result and never the model.

    fp8     NAME.weight in eight bits and NAME.weight_scale_inv, one scale for each block of it
    (DeepSeek, Qwen) mxfp4   NAME_blocks, two numbers of four bits a byte, and NAME_scales, an
    exponent for 32 of them (gpt-oss)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from engine.loading.architecture import Refused
from engine.loading.tensor_files import TensorReader, TensorWriter
from engine.models.inspect import KEPT_FILES, config_read

# Of 32 numbers each: what they are looked up by takes eight times their own memory.
ROWS_AT_ONCE = 2**20
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALE, BLOCKS, SCALES = "_scale_inv", "_blocks", "_scales"
# How inputs were scaled in eight bits: nothing is, once weights are unpacked.
LEFT_OUT = ("activation_scale", "input_scale")


def folder_unpack(
    folder: Path, out: Path, on_progress: Callable[[float], None] = lambda share: None
) -> None:
    """Write the model in `folder` to the new folder `out` with all weights in bf16. Raises Refused
    for a packing that is not one of those above."""
    config = config_read(folder, may_be_packed=True)
    packing = config.pop("quantization_config")
    tensors = TensorReader(folder)

    out.mkdir()

    for name in KEPT_FILES:
        if (folder / name).is_file() and name != "config.json":
            shutil.copyfile(folder / name, out / name)

    (out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    writer = TensorWriter(out)
    for number, name in enumerate(tensors.names):
        for unpacked_name, value in _unpacked(tensors, name, packing):
            writer.add(unpacked_name, value)

        on_progress((number + 1) / len(tensors.names))

    writer.close()


def _unpacked(
    tensors: TensorReader, name: str, packing: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """What `name` becomes: itself, its unpacked weight, or nothing, where it belongs to another
    one."""
    if name.endswith((SCALE, SCALES)) or name.rpartition(".")[2] in LEFT_OUT:
        return

    if name.endswith(BLOCKS):
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        whole = name.removesuffix(BLOCKS)
        yield (
            whole,
            convert_moe_packed_tensors(
                tensors[name],
                tensors[whole + SCALES],
                dtype=torch.bfloat16,
                rows_per_chunk=ROWS_AT_ONCE,
            ),
        )

        return

    value = tensors[name]
    if name + SCALE in tensors:
        if value.dtype not in EIGHT_BITS:
            raise Refused(
                f"The weights are packed in a way that cannot be unpacked here ({name}: "
                f"{value.dtype})."
            )

        value = _scaled(value, tensors[name + SCALE], packing.get("weight_block_size"))
    elif value.dtype in EIGHT_BITS or not value.is_floating_point():
        raise Refused(
            f"The weights are packed in a way that cannot be unpacked here ({name} has no scale)."
        )

    yield name, value.to(torch.bfloat16) if value.dtype == torch.float16 else value


def _scaled(value: torch.Tensor, scale: torch.Tensor, block: Any) -> torch.Tensor:
    """value: (…, rows, columns); scale: one for all, or (…, blocks of rows, blocks of columns), the
    last ones cut."""
    if scale.dtype == torch.uint8:
        # An exponent alone.
        scale = (scale.float() - 127).exp2()

    scale = scale.float()
    if scale.numel() > 1:
        rows, columns = block
        scale = scale.repeat_interleave(rows, -2)[..., : value.shape[-2], :]
        scale = scale.repeat_interleave(columns, -1)[..., : value.shape[-1]]
        if scale.shape != value.shape:
            raise Refused(
                "The scales of the weights do not fit them: config.json is of another model."
            )

    return (value.float() * scale).to(torch.bfloat16)
