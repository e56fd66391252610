"""Log-probabilities of the learned tokens, with their gradient computed during the forward pass.

TRL's own function goes over the output layer twice: once for the loss, and once more for its
gradient. But

    d log p(target) / d hidden = W[target] - sum_j p_j W_j = sum_j (1[j = target] - p_j) W_j

is one vector a token, and it needs nothing that the loss does not have at hand: one more matrix
product with each tile of the vocabulary while that is in the cache. The logits, (tokens,
vocabulary), are never held whole:

    fp32: tiles of 256 tokens by 4,096         half precision: a tile spans the vocabulary, and
    of the vocabulary                          takes as many tokens as 64 MB of fp32 logits hold

              <- vocabulary ->                           <- vocabulary ->
    tokens    | 1 | 2 | 3 | 4 |                tokens    |      1      |
              | 5 | 6 | 7 | 8 |                          |      2      |

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
TILE_TOKENS = 256
TILE_VOCABULARY = 4096
# In half precision a tile spans the vocabulary, and its logits in fp32 take at most 64 MB.
TILE_LOGITS = 1 << 24
# The largest logits of each token that are computed again in fp32. Against an exact output layer,
# on a model with a loss of 0.03, 4 leave a mean error of 1e-5 in log p; none leave 6e-4.
EXACT_LOGITS = 4
SUPPORTED_OUTPUTS = {"log_probs", "entropy", "mean_logits", "is_top1"}

Outputs = tuple[torch.Tensor | None, ...]


class _HeadFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        scale: float,
        outputs: tuple[str, ...],
    ) -> Outputs:
        """hidden: (tokens, hidden_size); weight: (vocabulary, hidden_size), frozen, in the dtype of
        `hidden`; targets: (tokens,), int64. The logits are `scale` times hidden weight'.

        Returns TRL's five outputs, each (tokens,), None where it is not in `outputs`:
        log-probability, entropy, a third that nobody asks for, mean logit, and whether the target
        is the likeliest token. All are fp32, but for the last, which is bool."""
        context.set_materialize_grads(False)
        needs_gradient = context.needs_input_grad[0]
        is_half = weight.dtype != torch.float32
        score = _score_half_precision if is_half else _score_single_precision

        tokens = len(hidden)
        log_probs = torch.empty(tokens, device=hidden.device)
        entropy = torch.empty(tokens, device=hidden.device)
        is_top = torch.empty(tokens, dtype=torch.bool, device=hidden.device)
        # d log p(target) / d hidden, (tokens, hidden_size).
        gradient = torch.empty_like(hidden) if needs_gradient else None

        tile_tokens = TILE_TOKENS
        if is_half:
            tile_tokens = min(TILE_TOKENS, max(1, TILE_LOGITS // len(weight)))

        for start in range(0, tokens, tile_tokens):
            tile = slice(start, start + tile_tokens)
            scores = score(hidden[tile], weight, targets[tile], scale, needs_gradient)
            log_probs[tile], entropy[tile], is_top[tile], direction = scores

            if gradient is not None:
                gradient[tile] = direction * scale

        not_differentiable = [entropy, is_top]
        mean_logits = None

        if "mean_logits" in outputs:
            mean_logits = (hidden.float() @ weight.float().mean(0)) * scale
            not_differentiable.append(mean_logits)

        context.save_for_backward(gradient)
        context.mark_non_differentiable(*not_differentiable)

        return (
            log_probs,
            entropy if "entropy" in outputs else None,
            None,
            mean_logits,
            is_top if "is_top1" in outputs else None,
        )

    @staticmethod
    def backward(
        context: Any, *grad_outputs: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = context.saved_tensors  # (tokens, hidden_size)
        grad_log_probs = grad_outputs[0]  # (tokens,)
        if grad_log_probs is None or gradient is None:
            return None, None, None, None, None

        # Multiplied in fp32, and rounded once.
        grad_hidden = (gradient * grad_log_probs.unsqueeze(-1)).to(gradient.dtype)
        return grad_hidden, None, None, None, None


# Log-probability, entropy and whether the target is the likeliest, each (tokens,); and where the
# gradient is needed sum_j (1[j = target] - p_j) W_j, (tokens, hidden_size), else None.
Scores = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]


def _score_half_precision(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
    needs_gradient: bool,
) -> Scores:
    """hidden: (tokens, hidden_size); weight: (vocabulary, hidden_size); targets: (tokens,).

    One tile over the vocabulary: rounding the product of several tiles, each by itself, would add
    up to a bias."""
    logits = exact_logits(hidden, weight, targets)  # (tokens, vocabulary), fp32

    if scale != 1.0:
        logits *= scale

    # All (tokens, 1) but for the powers, (tokens, vocabulary).
    target_logits = logits.gather(-1, targets[:, None])
    largest = logits.amax(-1, keepdim=True)
    below_largest = logits.sub_(largest)
    powers = below_largest.exp()
    total = powers.sum(-1, keepdim=True)

    # In this order neither term can be above 0.
    log_probs = (target_logits - largest) - total.log()
    weighted = torch.linalg.vecdot(powers, below_largest).unsqueeze(-1)
    entropy = total.log() - weighted / total
    is_top = target_logits == largest

    direction = None

    if needs_gradient:
        # 1 - p is formed before anything is rounded: where p is nearly 1, the difference of two
        # rounded vectors would be nothing but their rounding.
        coefficients = powers.div_(-total)  # (tokens, vocabulary): 1[j = target] - p_j
        coefficients.scatter_add_(-1, targets[:, None], torch.ones_like(target_logits))
        direction = (coefficients.to(weight.dtype) @ weight).float()

    return log_probs.squeeze(-1), entropy.squeeze(-1), is_top.squeeze(-1), direction


def exact_logits(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """hidden: (tokens, hidden_size) and weight: (vocabulary, hidden_size) in half precision;
    targets: (tokens,).

    Returns their product in fp32, (tokens, vocabulary): the target's logit and the EXACT_LOGITS
    largest are exact, the others rounded to half precision."""
    rounded = hidden @ weight.t()
    largest = rounded.topk(min(EXACT_LOGITS, len(weight)), sorted=False).indices
    chosen = torch.cat((largest, targets[:, None]), -1)  # (tokens, EXACT_LOGITS + 1)

    rows = weight[chosen].float()  # (tokens, EXACT_LOGITS + 1, hidden_size)
    exact = torch.bmm(rows, hidden.float().unsqueeze(-1)).squeeze(-1)

    return rounded.float().scatter_(-1, chosen, exact)


def _score_single_precision(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
    needs_gradient: bool,
) -> Scores:
    """hidden: (tokens, hidden_size); weight: (vocabulary, hidden_size); targets: (tokens,).

    Tile by tile over the vocabulary, by the online softmax (arxiv.org/abs/1805.02867): all sums are
    relative to the largest logit so far, and shrink when a tile has a larger one."""
    # Each (tokens, 1).
    largest = torch.full((len(hidden), 1), -torch.inf, device=hidden.device)
    target_logits = torch.empty_like(largest)
    # The sum of exp(logit - largest), and the sum of that times (logit - largest).
    total = torch.zeros_like(largest)
    weighted = torch.zeros_like(largest)
    # The sum of exp(logit - largest) times the row of the weight, (tokens, hidden_size).
    weight_sum = torch.zeros(hidden.shape, device=hidden.device)

    for start in range(0, len(weight), TILE_VOCABULARY):
        tile = weight[start : start + TILE_VOCABULARY]
        logits = hidden @ tile.t()  # (tokens, tile)

        if scale != 1.0:
            logits *= scale

        position = (targets - start)[:, None]
        is_in_tile = (position >= 0) & (position < len(tile))
        tile_logits = logits.gather(-1, position.clamp(0, len(tile) - 1))
        target_logits = torch.where(is_in_tile, tile_logits, target_logits)

        new_largest = torch.maximum(largest, logits.amax(-1, keepdim=True))
        below_largest = logits.sub_(new_largest)
        powers = below_largest.exp()
        tile_weighted = torch.linalg.vecdot(powers, below_largest).unsqueeze(-1)

        step = largest - new_largest
        shrink = step.exp()
        # Before the first tile `step` is -inf, and 0 times that is no number.
        lowered = torch.where(total > 0, total * step, total)
        weighted.add_(lowered).mul_(shrink).add_(tile_weighted)
        total.mul_(shrink).add_(powers.sum(-1, keepdim=True))

        if needs_gradient:
            weight_sum.mul_(shrink).addmm_(powers, tile)

        largest = new_largest

    log_probs = (target_logits - largest) - total.log()
    entropy = total.log() - weighted / total
    is_top = target_logits == largest
    direction = weight[targets] - weight_sum / total if needs_gradient else None

    return log_probs.squeeze(-1), entropy.squeeze(-1), is_top.squeeze(-1), direction


class Head:
    """Stands in for TRL's ChunkedLogProbFunction, with the same arguments, and calls it for
    whatever is not supported here."""

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
        """hidden: (tokens, hidden_size); weight: (vocabulary, hidden_size); bias: (vocabulary,);
        targets: (tokens,). Returns what _HeadFunction.forward does."""

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

        def fast() -> Any:
            scale = logit_scale / temperature
            return _HeadFunction.apply(hidden, weight, targets, scale, outputs)  # type: ignore[no-untyped-call]

        is_known = bias is None and softcap is None and set(outputs) <= SUPPORTED_OUTPUTS
        # Autocast and mixed precision are TRL's.
        is_plain = hidden.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
        if hidden.device.type != "cpu" or weight.requires_grad or not is_known or not is_plain:
            return plain()

        return attempt("loss with its gradient in one go", fast, plain)
