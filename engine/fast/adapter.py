"""A LoRA layer as one autograd function: three matrix products in place of eight small operations.

peft's modules, weights and files stay what they are; only the forward of each layer is another one.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn import functional


class _Product(torch.autograd.Function):
    """y = x W' + b + s (d A') B', with W and b frozen; d is x, or x with dropout."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        dropped: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """x, dropped: (…, in); weight: (out, in); down: (rank, in); up: (out, rank). Returns (…, out)."""
        rows = dropped.reshape(-1, dropped.shape[-1])
        result = functional.linear(x, weight, bias)
        inner = rows @ down.to(x.dtype).t()
        result.view(-1, result.shape[-1]).addmm_(inner, up.to(x.dtype).t(), alpha=scaling)
        context.save_for_backward(rows, inner, weight, down, up)
        context.scaling, context.is_dropped = scaling, dropped is not x
        return result

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inner, weight, down, up = context.saved_tensors
        (gradient,) = gradients
        flat = gradient.reshape(-1, gradient.shape[-1])
        at_inner = (flat @ up.to(flat.dtype)) * context.scaling
        to_up = (flat.t() @ inner).to(up.dtype) * context.scaling
        to_down = (at_inner.t() @ rows).to(down.dtype)
        to_x = to_dropped = None
        if context.needs_input_grad[0]:
            to_x = flat @ weight
            if not context.is_dropped:
                to_x.addmm_(at_inner, down.to(flat.dtype))
            to_x = to_x.view(*gradient.shape[:-1], -1)
        if context.is_dropped and context.needs_input_grad[1]:
            to_dropped = (at_inner @ down.to(flat.dtype)).view(*gradient.shape[:-1], -1)
        return to_x, to_dropped, None, None, to_down, to_up, None


def fuse(model: torch.nn.Module) -> int:
    """Give every plain LoRA layer of `model` the one function; returns how many there are."""
    count = 0
    for module in model.modules():
        if isinstance(module, LoraLinear) and _is_plain(module):
            # Bound, so that a copy of the layer computes with its own weights.
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
            count += 1
    return count


def _is_plain(module: LoraLinear) -> bool:
    """One adapter of two matrices over a frozen, unquantised layer, and nothing of peft's variants."""
    names = list(module.lora_A)
    base = module.get_base_layer()
    return (
        len(names) == 1
        and type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and not module.lora_variant
        and not module.lora_bias[names[0]]
        and not module.fan_in_fan_out
    )


def _forward(module: LoraLinear, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    base, active = module.base_layer, module.active_adapters
    # Merged, switched off (as a reference model is computed), mixed, or in two precisions: peft knows how.
    is_other = arguments or options or x.dtype != base.weight.dtype
    if is_other or module.merged or module.disable_adapters or len(active) != 1:
        plain: torch.Tensor = LoraLinear.forward(module, x, *arguments, **options)
        return plain
    (name,) = active
    dropout = module.lora_dropout[name]
    dropped = dropout(x) if isinstance(dropout, torch.nn.Dropout) and dropout.p else x
    down, up = module.lora_A[name].weight, module.lora_B[name].weight
    return _Product.apply(x, dropped, base.weight, base.bias, down, up, module.scaling[name])  # type: ignore[no-any-return, no-untyped-call]
