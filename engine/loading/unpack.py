"""Dequantisation of weights that are stored in eight or four bits (fp8, MXFP4) to bf16, so that the
model can be trained.

Tensor by tensor: memory holds one file of the result and never the model.

    fp8 (DeepSeek, Qwen)    NAME.weight in eight bits, and NAME.weight_scale_inv, one scale for each
                            block of it
    mxfp4 (gpt-oss)         NAME_blocks, two numbers of four bits a byte, and NAME_scales, an
                            exponent for 32 of them
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

# Rows of 32 numbers that are unpacked at a time: their indices into the table of values take eight
# times their own memory.
ROWS_AT_ONCE = 2**20
FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
# Ends of tensor names.
FP8_SCALE = "_scale_inv"
MXFP4_BLOCKS = "_blocks"
MXFP4_SCALES = "_scales"
# How fp8 layers scaled their inputs. bf16 layers do not.
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
    """What the tensor `name` becomes: itself, its unpacked weight, or nothing where it belongs to
    another one."""
    if name.endswith((FP8_SCALE, MXFP4_SCALES)) or name.rpartition(".")[2] in LEFT_OUT:
        return

    if name.endswith(MXFP4_BLOCKS):
        whole = name.removesuffix(MXFP4_BLOCKS)
        yield whole, _from_mxfp4(tensors[name], tensors[whole + MXFP4_SCALES])
        return

    value = tensors[name]

    if name + FP8_SCALE in tensors:
        if value.dtype not in FP8_DTYPES:
            raise Refused(
                f"The weights are packed in a way that cannot be unpacked here ({name}: "
                f"{value.dtype})."
            )

        value = _from_fp8(value, tensors[name + FP8_SCALE], packing.get("weight_block_size"))
    elif value.dtype in FP8_DTYPES or not value.is_floating_point():
        raise Refused(
            f"The weights are packed in a way that cannot be unpacked here ({name} has no scale)."
        )

    if value.dtype == torch.float16:
        value = value.to(torch.bfloat16)

    yield name, value


def _from_mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """blocks: (experts, rows, groups, 16), uint8, 32 numbers in the last dimension; scales:
    (experts, rows, groups), uint8. Returns (experts, groups * 32, rows), bf16."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    return convert_moe_packed_tensors(
        blocks, scales, dtype=torch.bfloat16, rows_per_chunk=ROWS_AT_ONCE
    )


def _from_fp8(value: torch.Tensor, scale: torch.Tensor, block: Any) -> torch.Tensor:
    """value: (…, rows, columns); scale: one number for all, or (…, blocks of rows, blocks of
    columns), of which the last ones may be cut; block: (rows, columns) of a block. Returns the
    shape of `value`, bf16."""
    if scale.dtype == torch.uint8:
        # The exponent of a power of two.
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
