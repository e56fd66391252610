"""What rounding alone does to a model: the yardstick for its GGUF file.

The weights of the model in transformers are rounded as the file's are, and the inputs of its layers
as llama.cpp rounds them before it multiplies: to the type of the weights where that is sixteen
bits, else to eight bits with a scale for each block. All else is computed in fp32. So a file that
differs by more is not the model, whatever its type."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFReader,
    dequantize,
    get_tensor_name_map,
)
from transformers.pytorch_utils import Conv1D

from engine.exporting.quantization import Quantizer, facts_of

Type = GGMLQuantizationType
HALVES = {Type.F16: torch.float16, Type.BF16: torch.bfloat16}
# Of eight signed bits.
LARGEST = 127


class FileTypes:
    """The types of a GGUF file's tensors, asked for by their names in transformers."""

    def __init__(self, reader: GGUFReader) -> None:
        self.types = {str(tensor.name): Type(tensor.tensor_type) for tensor in reader.tensors}
        facts = facts_of(reader)
        numbers = {name: number for number, name in MODEL_ARCH_NAMES.items()}
        number = numbers.get(facts.architecture)
        # Of an architecture that is newer than the package gguf, all weights have the usual type.
        self.names = get_tensor_name_map(number, facts.layers) if number is not None else None

        weights: Counter[Type] = Counter()
        for tensor in reader.tensors:
            weights[Type(tensor.tensor_type)] += int(tensor.n_elements)

        ((self.usual, _), *_) = weights.most_common(1)

    def of(self, name: str) -> Type:
        """name: of a matrix in the model."""
        found = self.names.get_name(name, (".weight", ".bias")) if self.names else None
        return self.types.get(f"{found}", self.usual)


def model_round(model: Any, reader: GGUFReader) -> None:
    """Round `model`, in fp32, as the file `reader` is rounded; inputs too, from now on."""
    types = FileTypes(reader)
    quantizer = Quantizer()
    # {id of a weight: its type}. Two modules may share one.
    rounded: dict[int, Type] = {}

    for name, module in model.named_modules():
        for key, weight in module.named_parameters(recurse=False):
            # An adapter's file is in fp32.
            if weight.dim() < 2 or ".lora_" in name:
                continue

            full_name = f"{name}.{key}".removeprefix("base_model.model.").replace(
                ".base_layer.", "."
            )
            if id(weight) not in rounded:
                rounded[id(weight)] = types.of(full_name)
                _weight_round(weight, types.of(full_name), quantizer, isinstance(module, Conv1D))

        kind = _multiplied_by(module, rounded)
        if kind is not None:
            module.register_forward_pre_hook(partial(_inputs_round, kind))


def _multiplied_by(module: Any, rounded: dict[int, Type]) -> Type | None:
    """The type of the weights that the module multiplies its inputs by, if it does: a layer, or a
    block of experts. rounded: as in model_round."""
    own = list(module.parameters(recurse=False))
    is_layer = isinstance(module, torch.nn.Linear | Conv1D)
    if not is_layer and not any(weight.dim() == 3 for weight in own):
        return None

    return next((rounded[id(weight)] for weight in own if id(weight) in rounded), None)


@torch.no_grad()
def _weight_round(weight: torch.Tensor, kind: Type, quantizer: Quantizer, transposed: bool) -> None:
    """transposed: whether the weight lies the other way round than in the file."""
    if kind in HALVES:
        weight.copy_(weight.to(HALVES[kind]))
        return

    rows = weight.T if transposed else weight
    block, _ = GGML_QUANT_SIZES[kind]
    if kind == Type.F32 or rows.shape[-1] % block:
        return

    data = np.ascontiguousarray(rows.numpy())
    packed = quantizer("weight", data, Type.F32, kind)
    values = torch.from_numpy(dequantize(packed, kind).reshape(data.shape))
    rows.copy_(values)


def _inputs_round(kind: Type, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if not inputs:
        return inputs

    values, *rest = inputs
    return (inputs_rounded(values, kind), *rest)


def inputs_rounded(values: torch.Tensor, kind: Type) -> torch.Tensor:
    """values: (…, width), the inputs of a layer whose weights are of this type."""
    if kind in HALVES:
        return values.to(HALVES[kind]).float()

    # Weights in blocks of 256 meet inputs in blocks of 256.
    block, _ = GGML_QUANT_SIZES[kind]
    if kind == Type.F32 or values.shape[-1] % block:
        return values

    blocks = values.reshape(*values.shape[:-1], -1, block)
    scales = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-30) / LARGEST
    rounded = (blocks / scales).round() * scales
    return rounded.reshape(values.shape)
