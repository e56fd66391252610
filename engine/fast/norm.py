"""RMS norm (arxiv.org/abs/1910.07467) as one autograd function, on a CPU in half precision.

Of its numbers transformers' own makes ten copies in fp32 for the way back; this one makes three,
and keeps its input alone. The values are the same, rounded in the same places."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

from engine.fast.fallback import attempt

# Those that compute weight * (x / rms(x)), rounded before the product. Gemma's is another one.
KNOWN = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """x: (…, size) and weight: (size,), both in half precision, the weight frozen. Returns (…,
        size)."""
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(epsilon))
        context.save_for_backward(x, weight, inverse)

        return wide.mul_(inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse = context.saved_tensors
        wide, pull = x.float(), (gradients[0] * weight).float()
        # Of the pull only what changes the direction of x moves the result.
        along = (pull * wide).sum(-1, keepdim=True).mul_(inverse.square()).div_(-x.shape[-1])
        return pull.addcmul_(wide, along).mul_(inverse).to(x.dtype), None, None


def fuse(model: torch.nn.Module) -> int:
    """Give every known norm of `model` whose weight is frozen the one function; returns how many
    there are."""
    count = 0
    for module in model.modules():
        if type(module).__name__ in KNOWN and not module.weight.requires_grad:
            # Bound, so that a copy of the layer computes with its own weight.
            module.forward = MethodType(_forward, module)
            count += 1

    return count


def _forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    if x.dtype == torch.float32 or x.dtype != module.weight.dtype or module.weight.requires_grad:
        plain: torch.Tensor = type(module).forward(module, x)
        return plain

    result: torch.Tensor = attempt(
        "norms as one function",
        lambda: _Norm.apply(x, module.weight, module.variance_epsilon),  # type: ignore[no-untyped-call]
        lambda: type(module).forward(module, x),
    )

    return result
