"""Log-probabilities of the learned tokens, with their gradient computed on the way forward.

TRL's own function goes over the output layer twice: once for the loss, and once more for its gradient. But

    d log p(target) / d hidden = W[target] - sum_j p_j W_j

is a vector a token, and it needs nothing that the loss does not have at hand: one more product with each tile while it
is in the cache. The same vector gives the entropy: sum_j p_j z_j = (sum_j p_j W_j) · hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

# A tile of fp32 logits, 256 tokens by 4,096 words, is 4 MB.
TILE_TOKENS, TILE_WORDS = 256, 4096
OUTPUTS_KNOWN = {"log_probs", "entropy", "mean_logits", "is_top1"}

Outputs = tuple[torch.Tensor | None, ...]


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        scale: float,
        outputs: tuple[str, ...],
    ) -> Outputs:
        """hidden: (tokens, size), weight: (words, size), targets: (tokens,). Logits are `scale` times their product.

        Returns TRL's five, each (tokens,), None where it is not in `outputs`: log-probability and entropy, a fourth
        that nobody asks for, mean logit, and whether the target is the likeliest word.
        """
        context.set_materialize_grads(False)
        wants_gradient = context.needs_input_grad[0]
        wants_mean = wants_gradient or "entropy" in outputs
        log_probs, entropy = (torch.empty(len(hidden), device=hidden.device) for _ in range(2))
        is_top = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        gradient = torch.empty_like(hidden) if wants_gradient else None
        for start in range(0, len(hidden), TILE_TOKENS):
            rows = slice(start, start + TILE_TOKENS)
            states, target_rows = hidden[rows], weight[targets[rows]]
            largest, log_sum, mean = _over_words(states, weight, scale, wants_mean=wants_mean)
            target_logits = (states.float() * target_rows).sum(-1) * scale
            log_probs[rows] = target_logits - log_sum
            # The target's logit is added up in another order here than in its tile.
            is_top[rows] = target_logits >= largest - 1e-5 * largest.abs().clamp(min=1)
            if mean is not None:
                entropy[rows] = log_sum - (mean * states).sum(-1) * scale
            if gradient is not None and mean is not None:
                gradient[rows] = (target_rows - mean) * scale
        mean_logits = (hidden.float() @ weight.float().mean(0)) * scale if "mean_logits" in outputs else None
        context.save_for_backward(gradient)
        context.mark_non_differentiable(entropy, is_top, *([] if mean_logits is None else [mean_logits]))
        return (
            log_probs,
            entropy if "entropy" in outputs else None,
            None,
            mean_logits,
            is_top if "is_top1" in outputs else None,
        )

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        (to_hidden,) = context.saved_tensors
        to_log_probs = gradients[0]
        if to_log_probs is None or to_hidden is None:
            return None, None, None, None, None
        return to_hidden * to_log_probs.unsqueeze(-1).to(to_hidden.dtype), None, None, None, None


def _over_words(
    states: torch.Tensor, weight: torch.Tensor, scale: float, *, wants_mean: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(largest logit, log of the sum of exponentials, sum_j p_j W_j if wanted), over the words tile by tile, in fp32.

    In half precision there is one tile: rounding the product of every tile by itself would add up to a bias.
    """
    tile_words = TILE_WORDS if weight.dtype == torch.float32 else len(weight)
    mean = torch.zeros(states.shape, device=states.device)
    largest = torch.full((len(states), 1), -torch.inf, device=states.device)
    total = torch.zeros_like(largest)
    for start in range(0, len(weight), tile_words):
        tile_weight = weight[start : start + tile_words]
        logits = (states @ tile_weight.t()).float()
        if scale != 1.0:
            logits *= scale
        higher = torch.maximum(largest, logits.amax(-1, keepdim=True))
        shrink = (largest - higher).exp_()
        powers = logits.sub_(higher).exp_()
        total.mul_(shrink).add_(powers.sum(-1, keepdim=True))
        if wants_mean and weight.dtype == torch.float32:
            mean.mul_(shrink).addmm_(powers, tile_weight)
        elif wants_mean:
            mean.add_((powers / total).to(weight.dtype) @ tile_weight)
        largest = higher
    if wants_mean and weight.dtype == torch.float32:
        mean /= total
    return largest.squeeze(-1), (largest + total.log()).squeeze(-1), mean if wants_mean else None


class Head:
    """Stands in for TRL's function, and leaves to it what it alone can do."""

    @staticmethod
    def apply(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None,
        logit_scale: float,
        outputs: tuple[str, ...],
    ) -> Any:
        is_known = bias is None and softcap is None and set(outputs) <= OUTPUTS_KNOWN
        if hidden.device.type != "cpu" or weight.requires_grad or not is_known or torch.is_autocast_enabled("cpu"):
            return ChunkedLogProbFunction.apply(  # type: ignore[no-untyped-call]
                hidden, weight, bias, targets, temperature, chunk_size, softcap, logit_scale, outputs
            )
        return _Head.apply(hidden, weight, targets, logit_scale / temperature, outputs)  # type: ignore[no-untyped-call]
