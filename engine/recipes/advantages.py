"""Returns and advantages of answers, token by token. Where nothing else is said, tensors are
(answers, tokens); masks are 1 for real tokens and 0 for padding."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Adds up a tensor over the ranks of a train.
Summed = Callable[[torch.Tensor], torch.Tensor]


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over the ranks of a train that has one."""
    return tensor


def token_rewards(
    scores: torch.Tensor, log_ratio: torch.Tensor, mask: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """The reward of each token: minus its KL penalty against the reference, plus the answer's score
    on the last token.

    scores: (answers,); log_ratio: old minus reference log-probability of each token.
    """
    rewards = -kl_coef * log_ratio * mask

    positions = torch.arange(mask.shape[1], device=mask.device)  # (tokens,)
    last = (positions * mask).argmax(dim=1)  # (answers,)
    is_last = (positions == last[:, None]) & mask.bool()

    return rewards + is_last * scores[:, None]


def advantages_and_returns(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (arxiv.org/abs/1506.02438), over the real tokens alone.

    values: of the state before each token. Both results are 0 where the mask is.
    """
    advantages = torch.zeros_like(values)
    # Of the next real token, (answers,): padding is stepped over.
    next_advantage = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(values[:, 0])

    for token in reversed(range(values.shape[1])):
        reward = rewards[:, token]
        value = values[:, token]
        is_real = mask[:, token].bool()

        error = reward + gamma * next_value - value
        advantage = error + gamma * lam * next_advantage

        advantages[:, token] = torch.where(is_real, advantage, 0.0)
        next_advantage = torch.where(is_real, advantage, next_advantage)
        next_value = torch.where(is_real, value, next_value)

    returns = (advantages + values) * mask
    return advantages, returns


def whiten(values: torch.Tensor, mask: torch.Tensor, summed: Summed = alone) -> torch.Tensor:
    """Shifted and scaled to mean 0 and standard deviation 1 over the real tokens of all ranks."""
    centred = values - masked_mean(values, mask, summed)
    variance = masked_mean(centred**2, mask, summed)
    return centred * torch.rsqrt(variance + 1e-8) * mask


def masked_mean(values: torch.Tensor, mask: torch.Tensor, summed: Summed = alone) -> torch.Tensor:
    """The mean over the real tokens of all ranks, a scalar; 0 where there is none."""
    return summed((values * mask).sum()) / summed(mask.sum()).clamp(min=1)


def masked_variance(values: torch.Tensor, mask: torch.Tensor, summed: Summed = alone) -> float:
    centred = values - masked_mean(values, mask, summed)
    return float(masked_mean(centred**2, mask, summed))


def explained_variance(
    values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, summed: Summed = alone
) -> float:
    """How much of the returns' variance the values predicted: 1 all of it, 0 none, below 0 less
    than their mean would have."""
    total = masked_variance(returns, mask, summed)
    if total <= 1e-8:
        return 0.0

    unexplained = masked_variance(returns - values, mask, summed)
    return 1 - unexplained / total


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    clip_range: float,
) -> torch.Tensor:
    """Half the squared error of each token, (answers, tokens): the worse of the value and the value
    clipped to within `clip_range` of the old one (arxiv.org/abs/2005.12729)."""
    change = (values - old_values).clamp(-clip_range, clip_range)
    clipped = old_values + change

    error = (values - returns) ** 2
    clipped_error = (clipped - returns) ** 2
    return 0.5 * torch.maximum(error, clipped_error) * mask
