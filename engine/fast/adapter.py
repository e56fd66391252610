"""A LoRA layer as one autograd function: three matrix products in place of eight small operations.

peft's modules, weights and files stay what they are; only the forward of each layer is another one.

In half precision the order of rounding decides whether an adapter is heard at all. peft rounds the
frozen layer's result to 8 bits and then adds the adapter's: whatever is smaller than half a bit of
the sum is lost, and in the first steps of a train nearly all of it is. Here both are one product,

    y = [x, x A'] [W, s B]'

which adds up in fp32 and rounds once. For that the frozen weight lies in storage with room for the
columns of s B beside it:

    wide   (out, in + room)    W: the first `in` columns    s B: the next `rank`    0: the rest

`room` is the rank, rounded up so that rows stay aligned. No weight is held twice.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn import functional

from engine.fast.fallback import attempt

# Rows of the wide storage begin at multiples of 16 bytes: matrix kernels want it so.
ALIGNED_COLUMNS = 8


class _Product(torch.autograd.Function):
    """y = x W' + b + s / (1 - p) ((x ∘ keep) A') B', with W and b frozen; keep is 1 with
    probability 1 - p, else 0."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        wide: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        """x: (…, in); wide: (out, in + room), see wide_weight; weight: (out, in); down: (rank, in);
        up: (out, rank). Returns (tokens, out): its caller gives it the shape of `x`, because
        autograd lets nobody write into a view that was made in here, and Llama 4 adds its experts'
        results to one."""
        rows = x.reshape(-1, x.shape[-1])
        keep = _keep(rows, dropout) if dropout else None
        scaling /= 1 - dropout

        inner = (rows if keep is None else rows * keep) @ down.to(x.dtype).t()
        adapter_write(wide, up, scaling)
        result = functional.linear(beside(rows, inner, wide), wide, bias)

        context.save_for_backward(rows, keep, inner, weight, down, up)
        context.scaling, context.shape = scaling, x.shape

        return result

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, keep, inner, weight, down, up = context.saved_tensors
        (gradient,) = gradients
        flat = gradient.reshape(-1, gradient.shape[-1])
        at_inner = (flat @ up.to(flat.dtype)) * context.scaling

        # Turned: the product of the narrow one first takes half the time.
        to_up = (inner.t() @ flat).t().to(up.dtype) * context.scaling
        to_down = (at_inner.t() @ (rows if keep is None else rows * keep)).to(down.dtype)

        to_x = None

        if context.needs_input_grad[0]:
            to_x = flat @ weight
            if keep is None:
                to_x.addmm_(at_inner, down.to(flat.dtype))
            else:
                to_x.addcmul_(at_inner @ down.to(flat.dtype), keep)

            to_x = to_x.view(context.shape)

        return to_x, None, None, None, to_down, to_up, None, None


def wide_weight(module: Any, rank: int) -> torch.Tensor:
    """(out, in + room): storage whose first columns are the frozen weight of `module`, with room
    for `rank` more.

    It is made at the first call, and anew where the weight has moved meanwhile: to another device,
    or into a copy of the model. From then on the layer's own weight is a view of it."""
    weight: torch.Tensor = module.get_base_layer().weight
    columns = weight.shape[1] + -(-rank // ALIGNED_COLUMNS) * ALIGNED_COLUMNS
    wide: torch.Tensor | None = vars(module).get("wide_weight")

    is_current = (
        wide is not None and wide.data_ptr() == weight.data_ptr() and wide.dtype == weight.dtype
    )
    if wide is None or not is_current or wide.shape[1] != columns:
        wide = weight.new_zeros(weight.shape[0], columns)
        wide[:, : weight.shape[1]] = weight
        weight.data = wide[:, : weight.shape[1]]
        module.wide_weight = wide

    return wide


def adapter_write(wide: torch.Tensor, up: torch.Tensor, scaling: float) -> None:
    """Put `up`, (out, rank), times `scaling` beside the frozen weight in `wide`. The columns behind
    it stay 0."""
    start = wide.shape[1] - -(-up.shape[1] // ALIGNED_COLUMNS) * ALIGNED_COLUMNS
    wide[:, start : start + up.shape[1]] = up * scaling


def beside(x: torch.Tensor, inner: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """[x, inner, 0]: (tokens, in + room) of (tokens, in) and (tokens, rank), to be multiplied with
    `wide`."""
    rest = wide.shape[1] - x.shape[1] - inner.shape[1]
    parts = [x, inner.to(x.dtype)]

    if rest:
        parts.append(x.new_zeros(len(x), rest))

    return torch.cat(parts, -1)


def _keep(rows: torch.Tensor, dropout: float) -> torch.Tensor:
    """1 with probability 1 - dropout, else 0, in the shape and type of `rows`.

    Four decisions come from each random number of 64 bits: drawing one by one takes a CPU five
    times as long, which for all layers together is as much as a third of a step."""
    words = torch.empty(-(-rows.numel() // 4), dtype=torch.int64, device=rows.device).random_(
        -(2**63), None
    )
    bits = words.view(torch.int16)[: rows.numel()].view(rows.shape)
    return (bits >= round(dropout * 2**16) - 2**15).to(rows.dtype)


def fuse(model: torch.nn.Module) -> int:
    """Give every plain LoRA layer of `model` the one function; returns how many there are."""
    count = 0
    for module in model.modules():
        if (
            isinstance(module, LoraLinear)
            and len(module.lora_A) == 1
            and is_plain(module, *module.lora_A)
        ):
            # Bound, so that a copy of the layer computes with its own weights.
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
            count += 1

    return count


def is_plain(module: LoraLinear, name: str) -> bool:
    """An adapter of two matrices over a frozen, unquantised layer, and nothing of peft's
    variants."""
    base = module.get_base_layer()
    return (
        name in module.lora_A
        and type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and not module.lora_variant
        and not module.lora_bias[name]
        and not module.fan_in_fan_out
    )


def _forward(module: Any, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    base, active = module.base_layer, module.active_adapters
    # Merged, switched off (as a reference model is computed), mixed, or in two precisions: peft
    # knows how.
    is_other = arguments or options or x.dtype != base.weight.dtype
    if is_other or module.merged or module.disable_adapters or len(active) != 1:
        plain: torch.Tensor = LoraLinear.forward(module, x, *arguments, **options)
        return plain

    (name,) = active
    dropout = module.lora_dropout[name]
    share = dropout.p if module.training and isinstance(dropout, torch.nn.Dropout) else 0.0
    down, up = module.lora_A[name].weight, module.lora_B[name].weight

    def fused() -> torch.Tensor:
        wide = wide_weight(module, len(down))
        result: torch.Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            x, wide, base.weight, base.bias, down, up, module.scaling[name], share
        )
        return result.view(*x.shape[:-1], -1)

    found: torch.Tensor = attempt(
        "adapter layers as one function", fused, lambda: LoraLinear.forward(module, x)
    )

    return found
