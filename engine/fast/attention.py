"""Attention over rows that are laid end to end, so that nothing is computed on padding.

TRL's padding-free batches are one long row with the borders of the rows in it. Flash attention reads those borders on a
GPU; here each segment goes through torch's own attention by itself, so that no row can see another.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "segments"


def register() -> None:
    """Make the attention known to transformers under NAME."""
    AttentionInterface.register(NAME, segments_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def segments_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """`query`: (1, heads, tokens, head size); `cu_seq_lens_q`: (segments + 1,) borders, from 0 to tokens.

    Without borders it is an ordinary batch, with its mask: generation, or rows that were padded after all. Returns
    (batch, tokens, heads, head size) and no weights.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = [end - start for start, end in pairwise(cu_seq_lens_q.tolist())]
    # Split and not sliced: the gradient of every slice would be a tensor as large as the whole.
    queries, keys, values = (torch.split(whole, lengths, dim=2) for whole in (query, key, value))
    parts = [
        sdpa_attention_forward(module, one, key, value, _band(length, sliding_window, query.device), **options)[0]
        for one, key, value, length in zip(queries, keys, values, lengths, strict=True)
    ]
    return torch.cat(parts, dim=1), None


def _band(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """None for plain causal attention; where the segment is longer than the window, a mask of what may be seen."""
    if window is None or length <= window:
        return None
    position = torch.arange(length, device=device)
    behind = position[:, None] - position[None, :]
    return ((behind >= 0) & (behind < window))[None, None]
