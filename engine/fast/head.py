"""Log-probabilities of the learned tokens, with their gradient computed during the forward pass.

TRL's own function goes over the output layer twice: once for the loss, and once more for its
gradient. But

    d log p(target) / d hidden = W[target] - sum_j p_j W_j = sum_j (1[j = target] - p_j) W_j

is one vector a token, and it needs nothing that the loss does not have at hand: one more product
with each tile of the vocabulary while that is in the cache.

In half precision a product of the output layer is rounded to 8 bits: a logit of 30 is off by up to
0.06. For a model that is sure of its answer this is most of its loss, so the logits that matter,
the target's and the largest ones, are computed again in fp32. All numbers come from these same
logits: no log-probability can exceed 0, and a target is the likeliest token exactly where its
logit is the largest.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from engine.fast.fallback import attempt

# A tile of fp32 logits, 256 tokens by 4,096 of the vocabulary, is 4 MB.
TILE_TOKENS, TILE_VOCABULARY = 256, 4096
# In half precision a tile spans the vocabulary, and its logits in fp32 take at most 64 MB.
TILE_LOGITS = 1 << 24
# The largest logits of each token that are computed again in fp32. Against an exact output layer,
# on a model with a loss of 0.03, 4 leave a mean error of 1e-5 in log p; none leave 6e-4.
EXACT_LOGITS = 4
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
        """hidden: (tokens, size); weight: (vocabulary, size); targets: (tokens,). The logits are
        `scale` times the product of the first two.

        Returns TRL's five outputs, each (tokens,), None where it is not in `outputs`:
        log-probability, entropy, a third that nobody asks for, mean logit, and whether the target
        is the likeliest token.
        """
        context.set_materialize_grads(False)
        wants_gradient = context.needs_input_grad[0]
        is_half = weight.dtype != torch.float32
        score = _half_precision if is_half else _single_precision

        log_probs, entropy = (torch.empty(len(hidden), device=hidden.device) for _ in range(2))
        is_top = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        gradient = torch.empty_like(hidden) if wants_gradient else None

        tile_tokens = (
            min(TILE_TOKENS, max(1, TILE_LOGITS // len(weight))) if is_half else TILE_TOKENS
        )

        for start in range(0, len(hidden), tile_tokens):
            rows = slice(start, start + tile_tokens)
            log_probs[rows], entropy[rows], is_top[rows], direction = score(
                hidden[rows], weight, targets[rows], scale, wants_gradient
            )

            if gradient is not None:
                gradient[rows] = direction * scale

        mean_logits = (
            (hidden.float() @ weight.float().mean(0)) * scale if "mean_logits" in outputs else None
        )
        context.save_for_backward(gradient)
        context.mark_non_differentiable(
            entropy, is_top, *([] if mean_logits is None else [mean_logits])
        )

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

        # Multiplied in fp32, and rounded once.
        return (to_hidden * to_log_probs.unsqueeze(-1)).to(to_hidden.dtype), None, None, None, None


# Log-probability, entropy and whether the target is the likeliest, each (tokens,); and where the
# gradient is wanted sum_j (1[j = target] - p_j) W_j, (tokens, size).
Scores = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]


def _half_precision(
    states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
    wants_gradient: bool,
) -> Scores:
    """The scores of (tokens, size) states, in one tile over the vocabulary: rounding the product of
    every tile by itself would add up to a bias."""
    logits = exact_logits(states, weight, targets)

    if scale != 1.0:
        logits *= scale

    target_logits = logits.gather(-1, targets[:, None])
    largest = logits.amax(-1, keepdim=True)
    below = logits.sub_(largest)
    powers = below.exp()
    total = powers.sum(-1, keepdim=True)

    # In this order neither term can be above 0.
    log_probs = (target_logits - largest) - total.log()
    entropy = total.log() - torch.linalg.vecdot(powers, below).unsqueeze(-1) / total
    is_top = target_logits == largest

    direction = None

    if wants_gradient:
        # 1 - p is formed before anything is rounded: where p is nearly 1, the difference of two
        # rounded vectors would be nothing but their rounding.
        shares = powers.div_(-total)
        shares.scatter_add_(-1, targets[:, None], torch.ones_like(target_logits))
        direction = (shares.to(weight.dtype) @ weight).float()

    return log_probs.squeeze(-1), entropy.squeeze(-1), is_top.squeeze(-1), direction


def exact_logits(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """states: (tokens, size) and weight: (vocabulary, size) in half precision; targets: (tokens,).

    Returns their product in fp32, (tokens, vocabulary): the target's logit and the EXACT_LOGITS
    largest are exact, the others rounded to half precision."""
    rounded = states @ weight.t()
    largest = rounded.topk(min(EXACT_LOGITS, len(weight)), sorted=False).indices
    chosen = torch.cat((largest, targets[:, None]), -1)
    exact = torch.bmm(weight[chosen].float(), states.float().unsqueeze(-1)).squeeze(-1)

    return rounded.float().scatter_(-1, chosen, exact)


def _single_precision(
    states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
    wants_gradient: bool,
) -> Scores:
    """The scores of (tokens, size) states in fp32, the vocabulary tile by tile."""
    largest = torch.full((len(states), 1), -torch.inf, device=states.device)
    target_logits = torch.empty_like(largest)
    # Of the powers of all logits below the largest one: their sum, and that of each times its
    # logit.
    total, weighted = torch.zeros_like(largest), torch.zeros_like(largest)
    mean = torch.zeros(states.shape, device=states.device)

    for start in range(0, len(weight), TILE_VOCABULARY):
        tile = weight[start : start + TILE_VOCABULARY]
        logits = states @ tile.t()

        if scale != 1.0:
            logits *= scale

        place = (targets - start)[:, None]
        is_here = (place >= 0) & (place < len(tile))
        found = logits.gather(-1, place.clamp(0, len(tile) - 1))
        target_logits = torch.where(is_here, found, target_logits)

        higher = torch.maximum(largest, logits.amax(-1, keepdim=True))
        below = logits.sub_(higher)
        powers = below.exp()
        shrink = (largest - higher).exp()
        lowered = torch.where(total > 0, total * (largest - higher), total)
        weighted.add_(lowered).mul_(shrink).add_(torch.linalg.vecdot(powers, below).unsqueeze(-1))
        total.mul_(shrink).add_(powers.sum(-1, keepdim=True))

        if wants_gradient:
            mean.mul_(shrink).addmm_(powers, tile)

        largest = higher

    log_probs = (target_logits - largest) - total.log()
    entropy = total.log() - weighted / total
    is_top = target_logits == largest
    direction = weight[targets] - mean / total if wants_gradient else None

    return log_probs.squeeze(-1), entropy.squeeze(-1), is_top.squeeze(-1), direction


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
        def plain() -> Any:
            return ChunkedLogProbFunction.apply(  # type: ignore[no-untyped-call]
                hidden,
                weight,
                bias,
                targets,
                temperature,
                chunk_size,
                softcap,
                logit_scale,
                outputs,
            )

        is_known = bias is None and softcap is None and set(outputs) <= OUTPUTS_KNOWN
        # Autocast and mixed precision are TRL's.
        is_plain = hidden.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
        if hidden.device.type != "cpu" or weight.requires_grad or not is_known or not is_plain:
            return plain()

        return attempt(
            "loss with its gradient in one go",
            lambda: _Head.apply(hidden, weight, targets, logit_scale / temperature, outputs),  # type: ignore[no-untyped-call]
            plain,
        )
