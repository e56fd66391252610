"""Attention over rows that are laid end to end, so that nothing is computed on padding.

TRL's padding-free batches are one long row with the borders of the rows in it. On a GPU torch's
flash attention reads those borders; on a CPU each segment goes through attention by itself. Either
way no row can see another."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from engine.fast.causal import causal_attention, split_rows

NAME = "segments"
# What changes scores and is not computed here: caps, sinks, biases of positions.
NOT_KNOWN = ("softcap", "s_aux", "position_bias", "alibi", "head_mask")


def register() -> None:
    """Make the attention known to transformers under NAME."""
    AttentionInterface.register(NAME, segments_attention)
    AttentionMaskInterface.register(NAME, segments_mask)


def segments_mask(
    *, attention_mask: torch.Tensor | None = None, **options: Any
) -> torch.Tensor | None:
    """None where nothing is padded or remembered: a mask of all tokens of a batch by all is never
    made for borders that are known anyway, and would have four gigabytes at 65,536 tokens."""
    if attention_mask is None and options["q_length"] == options["kv_length"] > 1:
        return None

    return sdpa_mask(attention_mask=attention_mask, **options)


def segments_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """`query`: (1, heads, tokens, head size); `cu_seq_lens_q`: (segments + 1,) borders, from 0 to
    tokens; `max_length_q`: tokens of the longest segment.

    Without borders it is an ordinary batch, with its mask: generation, or rows that were padded
    after all. Returns (batch, tokens, heads, head size) and no weights. Raises NotImplementedError
    where the model asks for more."""
    if unknown := [name for name in NOT_KNOWN if options.get(name) is not None]:
        raise NotImplementedError(f"attention with {unknown[0]}")

    if cu_seq_lens_q is None:
        if attention_mask is None and query.shape[2] == key.shape[2]:
            attention_mask = _band(query.shape[2], sliding_window, query.device)

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    if query.device.type == "cuda":
        return _flash(
            query, key, value, cu_seq_lens_q, max_length_q, sliding_window, options.get("scaling")
        ), None

    lengths = tuple(end - start for start, end in pairwise(cu_seq_lens_q.tolist()))
    if query.dtype in (torch.bfloat16, torch.float16) and not options.get("dropout"):
        return causal_attention(
            query, key, value, lengths, options.get("scaling"), sliding_window
        ), None

    parts = [
        sdpa_attention_forward(
            module, q, k, v, _band(q.shape[2], sliding_window, q.device), **options
        )[0]
        for q, k, v in split_rows(query, key, value, lengths)
    ]
    return torch.cat(parts, dim=1), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """All segments by one kernel, which knows half precision alone."""
    half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    q, k, v = (tensor.transpose(1, 2).squeeze(0).to(half) for tensor in (query, key, value))
    found = varlen_attn(
        q,
        k,
        v,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )

    assert isinstance(found, torch.Tensor)

    return found.to(query.dtype).unsqueeze(0)


def _band(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """None for plain causal attention; where the segment is longer than the window, a mask of what
    may be seen."""
    if window is None or length <= window:
        return None

    position = torch.arange(length, device=device)
    behind = position[:, None] - position[None, :]
    return ((behind >= 0) & (behind < window))[None, None]
