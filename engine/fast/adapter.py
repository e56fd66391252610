"""A LoRA layer as one autograd function: three matrix products in place of eight small operations.

peft's modules, weights and files stay what they are; only the forward of each layer is replaced.

In half precision the order of rounding decides whether an adapter has any effect. peft rounds the
frozen layer's result to 8 bits and then adds the adapter's: whatever is smaller than half a bit of
the sum is lost, and in the first steps of a train nearly all of it is. Here both are one matrix
product,

    y = [x, x A'] [W, s B]'

which accumulates in fp32 and rounds once. For that the frozen weight W, (out, in), lies in storage
with room for the columns of s B, (out, rank):

                  |<------- in ------->|<- rank ->|<- padding ->|
    wide     out  |         W          |   s B    |      0      |     (out, in + room)
    input tokens  |         x          |   x A'   |      0      |     (tokens, in + room)

`room` is the rank and the padding that keeps rows aligned. W is a view of its columns: no weight is
held twice.
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


class _LoraFunction(torch.autograd.Function):
    """y = x W' + b + s / (1 - p) ((x ∘ keep) A') B', with W and b frozen; keep is 1 with
    probability 1 - p, else 0. s is the scaling, p the dropout."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        wide: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        """x: (…, in), weight: (out, in) and wide: (out, in + room), see wide_weight, of one dtype;
        bias: (out,); lora_a: (rank, in) and lora_b: (out, rank), fp32.

        Returns (tokens, out) in the dtype of x. Its caller gives it the shape of x: autograd lets
        nobody write into a view that was made in here, and Llama 4 adds its experts' results to
        one."""
        rows = x.reshape(-1, x.shape[-1])  # (tokens, in)
        keep = _dropout_mask(rows, dropout) if dropout else None
        scaling /= 1 - dropout

        dropped = rows if keep is None else rows * keep
        inner = dropped @ lora_a.to(x.dtype).t()  # (tokens, rank)
        adapter_write(wide, lora_b, scaling)
        result = functional.linear(augmented_input(rows, inner, wide), wide, bias)

        context.save_for_backward(rows, keep, inner, weight, lora_a, lora_b)
        context.scaling = scaling
        context.shape = x.shape

        return result

    @staticmethod
    def backward(context: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, keep, inner, weight, lora_a, lora_b = context.saved_tensors
        (grad_output,) = grad_outputs
        grad_output = grad_output.reshape(-1, grad_output.shape[-1])  # (tokens, out)
        dtype = grad_output.dtype
        grad_inner = (grad_output @ lora_b.to(dtype)) * context.scaling  # (tokens, rank)

        # Transposed: with the narrow matrix first the product takes half the time.
        grad_lora_b = (inner.t() @ grad_output).t().to(lora_b.dtype) * context.scaling
        dropped = rows if keep is None else rows * keep
        grad_lora_a = (grad_inner.t() @ dropped).to(lora_a.dtype)

        grad_x = None

        if context.needs_input_grad[0]:
            grad_x = grad_output @ weight  # (tokens, in)
            if keep is None:
                grad_x.addmm_(grad_inner, lora_a.to(dtype))
            else:
                grad_x.addcmul_(grad_inner @ lora_a.to(dtype), keep)

            grad_x = grad_x.view(context.shape)

        return grad_x, None, None, None, grad_lora_a, grad_lora_b, None, None


def wide_weight(module: Any, rank: int) -> torch.Tensor:
    """(out, in + room), in the dtype of the frozen weight of `module`: storage whose first columns
    are that weight, with room for `rank` more.

    It is allocated at the first call, and again where the weight has moved meanwhile: to another
    device, or into a copy of the model. From then on the layer's own weight is a view of it."""
    weight: torch.Tensor = module.get_base_layer().weight  # (out, in)
    columns = weight.shape[1] + _room(rank)
    wide: torch.Tensor | None = vars(module).get("wide_weight")

    if (
        wide is not None
        and wide.data_ptr() == weight.data_ptr()
        and wide.dtype == weight.dtype
        and wide.shape[1] == columns
    ):
        return wide

    wide = weight.new_zeros(weight.shape[0], columns)
    wide[:, : weight.shape[1]] = weight
    weight.data = wide[:, : weight.shape[1]]
    module.wide_weight = wide

    return wide


def _room(rank: int) -> int:
    """`rank`, rounded up to a multiple of ALIGNED_COLUMNS."""
    return -(-rank // ALIGNED_COLUMNS) * ALIGNED_COLUMNS


def adapter_write(wide: torch.Tensor, lora_b: torch.Tensor, scaling: float) -> None:
    """Write lora_b, (out, rank), times `scaling` into `wide`, (out, in + room), behind the frozen
    weight. The columns behind it stay 0."""
    rank = lora_b.shape[1]
    start = wide.shape[1] - _room(rank)
    wide[:, start : start + rank] = lora_b * scaling


def augmented_input(x: torch.Tensor, inner: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """[x, inner, 0], which is multiplied with `wide`: (tokens, in + room), in the dtype of x.

    x: (tokens, in); inner: (tokens, rank); wide: (out, in + room)."""
    padding = wide.shape[1] - x.shape[1] - inner.shape[1]
    parts = [x, inner.to(x.dtype)]

    if padding:
        parts.append(x.new_zeros(len(x), padding))

    return torch.cat(parts, -1)


def _dropout_mask(rows: torch.Tensor, dropout: float) -> torch.Tensor:
    """1 with probability 1 - dropout, else 0, in the shape and dtype of `rows`, (tokens, in).

    Four decisions come from each random number of 64 bits: drawing one by one takes a CPU five
    times as long, which for all layers together is as much as a third of a step."""
    count = rows.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=rows.device)
    draws.random_(-(2**63), None)
    # Each int16 is uniform over its whole range.
    draws_16_bit = draws.view(torch.int16)[:count].view(rows.shape)
    threshold = round(dropout * 2**16) - 2**15

    return (draws_16_bit >= threshold).to(rows.dtype)


def fuse(model: torch.nn.Module) -> int:
    """Have every plain LoRA layer of `model` compute by the fused function. Returns how many there
    are."""
    count = 0
    for module in model.modules():
        if not isinstance(module, LoraLinear) or len(module.lora_A) != 1:
            continue

        if is_plain(module, *module.lora_A):
            # Bound, so that a copy of the layer computes with its own weights.
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
            count += 1

    return count


def is_plain(module: LoraLinear, name: str) -> bool:
    """Whether the adapter `name` is two matrices over a frozen, unquantised layer, without any of
    peft's variants."""
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
    """x: (…, in). Returns (…, out)."""
    base = module.base_layer
    active = module.active_adapters
    # An adapter that is merged, disabled (as a reference model is computed), mixed with others, or
    # of another precision than its input: peft knows how.
    is_other = arguments or options or x.dtype != base.weight.dtype
    if is_other or module.merged or module.disable_adapters or len(active) != 1:
        plain_result: torch.Tensor = LoraLinear.forward(module, x, *arguments, **options)
        return plain_result

    (name,) = active
    lora_a = module.lora_A[name].weight
    lora_b = module.lora_B[name].weight
    dropout = module.lora_dropout[name]
    share = 0.0

    if module.training and isinstance(dropout, torch.nn.Dropout):
        share = dropout.p

    def fused() -> torch.Tensor:
        result: torch.Tensor = _LoraFunction.apply(  # type: ignore[no-untyped-call]
            x,
            wide_weight(module, len(lora_a)),
            base.weight,
            base.bias,
            lora_a,
            lora_b,
            module.scaling[name],
            share,
        )
        return result.view(*x.shape[:-1], -1)

    def plain() -> torch.Tensor:
        return LoraLinear.forward(module, x)

    result: torch.Tensor = attempt("adapter layers as one function", fused, plain)

    return result
