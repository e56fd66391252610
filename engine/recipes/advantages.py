"""Returns and advantages of answers, token by token. All tensors are (answers, tokens); masks are 1
for real tokens."""

from __future__ import annotations

import torch


def token_rewards(
    scores: torch.Tensor, log_ratio: torch.Tensor, mask: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """What each token is worth: minus the KL penalty against the reference, and the answer's score
    on its last token.

    scores: (answers,); log_ratio: old minus reference log-probability of each token.
    """
    rewards = -kl_coef * log_ratio * mask
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).argmax(dim=1)
    is_last = (positions == last[:, None]) & mask.bool()

    return rewards + is_last * scores[:, None]


def advantages_and_returns(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (arxiv.org/abs/1506.02438), over the real tokens alone.

    values: of the state before each token. Both results are 0 where the mask is.
    """
    real = mask.bool()
    advantages = torch.zeros_like(values)
    later = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(values[:, 0])

    for token in reversed(range(values.shape[1])):
        surprise = rewards[:, token] + gamma * next_value - values[:, token]
        estimate = surprise + gamma * lam * later
        here = real[:, token]
        advantages[:, token] = torch.where(here, estimate, 0.0)
        later = torch.where(here, estimate, later)
        next_value = torch.where(here, values[:, token], next_value)

    return advantages, (advantages + values) * mask


def whiten(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean 0 and spread 1 over the real tokens."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """How much of the returns' variance the values foretold: 1 all of it, 0 none, below 0 worse
    than their mean."""
    spread = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    errors = returns - values
    left = masked_mean((errors - masked_mean(errors, mask)) ** 2, mask)

    return float(1 - left / spread) if float(spread) > 1e-8 else 0.0


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    clip_range: float,
) -> torch.Tensor:
    """Half the squared error of each token, (answers, tokens): the worse of the value and the value
    clipped to within `clip_range` of the old one (arxiv.org/abs/2005.12729)."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2) * mask
