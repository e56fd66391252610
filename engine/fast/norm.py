"""RMS norm (arxiv.org/abs/1910.07467) as one autograd function, on a CPU in half precision.

    y = weight * x / rms(x)        rms(x) = sqrt(mean(x²) + epsilon)

transformers' own makes ten fp32 copies of x on its way to the gradient; this one makes three, and
saves x alone for the backward pass. The values are the same, rounded in the same places."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

from engine.fast.fallback import attempt

# Those that round x / rms(x) before they multiply it by the weight. Gemma's does not.
KNOWN = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """x: (…, hidden_size) and weight: (hidden_size,), both in the same half precision, the
        weight frozen. Returns the shape and dtype of x."""
        x_fp32 = x.float()
        mean_square = x_fp32.square().mean(-1, keepdim=True)  # (…, 1)
        inverse_rms = torch.rsqrt(mean_square.add_(epsilon))
        context.save_for_backward(x, weight, inverse_rms)

        normalised = x_fp32.mul_(inverse_rms).to(x.dtype)
        return normalised.mul_(weight)

    @staticmethod
    def backward(context: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """With g = grad_output * weight: grad_x = (g - x mean(g x) / rms²) / rms. The part of g
        that is parallel to x is taken away, because the length of x does not change y."""
        x, weight, inverse_rms = context.saved_tensors
        x_fp32 = x.float()
        grad = (grad_outputs[0] * weight).float()  # (…, hidden_size)

        parallel = (grad * x_fp32).sum(-1, keepdim=True)  # (…, 1)
        parallel.mul_(inverse_rms.square()).div_(-x.shape[-1])
        grad_x = grad.addcmul_(x_fp32, parallel).mul_(inverse_rms)

        return grad_x.to(x.dtype), None, None


def fuse(model: torch.nn.Module) -> int:
    """Have every known norm of `model` whose weight is frozen compute by the fused function.
    Returns how many there are."""
    count = 0
    for module in model.modules():
        if type(module).__name__ in KNOWN and not module.weight.requires_grad:
            # Bound, so that a copy of the layer computes with its own weight.
            module.forward = MethodType(_forward, module)
            count += 1

    return count


def _forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    """x: (…, hidden_size). Returns the same shape and dtype."""
    weight = module.weight

    def plain() -> torch.Tensor:
        result: torch.Tensor = type(module).forward(module, x)
        return result

    def fused() -> torch.Tensor:
        result: torch.Tensor = _RMSNorm.apply(x, weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
        return result

    if x.dtype == torch.float32 or x.dtype != weight.dtype or weight.requires_grad:
        return plain()

    result: torch.Tensor = attempt("norms as one function", fused, plain)

    return result
