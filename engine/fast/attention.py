"""Variable-length attention over rows that lie end to end, so that nothing is computed on padding.

TRL's padding-free batches are one long row with the borders of the rows in it, for rows of 3, 5 and
2 tokens:

    input_ids        A0 A1 A2 B0 B1 B2 B3 B4 C0 C1       (1, tokens)
    position_ids      0  1  2  0  1  2  3  4  0  1       (1, tokens)
    cu_seq_lens_q     0        3              8     10   (rows + 1,), int32
    max_length_q      5

On a GPU torch's flash attention reads those borders; on a CPU each row, called a segment here, goes
through attention by itself. Either way no row can see another:

         A A A B B B B B C C    keys
    A    x
    A    x x
    A    x x x
    B          x
    B          x x
    ...
    C                    x
    C                    x x"""

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
# Options that change scores and are not computed here: caps, attention sinks, position biases.
UNSUPPORTED_OPTIONS = ("softcap", "s_aux", "position_bias", "alibi", "head_mask")


def register() -> None:
    """Make the attention known to transformers under NAME."""
    AttentionInterface.register(NAME, segments_attention)
    AttentionMaskInterface.register(NAME, segments_mask)


def segments_mask(
    *, attention_mask: torch.Tensor | None = None, **options: Any
) -> torch.Tensor | None:
    """None where nothing is padded or cached: a mask of (tokens, tokens) is never made for borders
    that are known anyway, and would have four gigabytes at 65,536 tokens. Else transformers' mask,
    (batch, 1, queries, keys), bool."""
    has_no_cache = options["q_length"] == options["kv_length"] > 1
    if attention_mask is None and has_no_cache:
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
    """query: (1, heads, tokens, head_dim); key, value: (1, kv_heads, tokens, head_dim);
    cu_seq_lens_q: (segments + 1,) borders, from 0 to tokens; max_length_q: tokens of the longest
    segment.

    Without borders it is an ordinary batch, with its mask: generation, or rows that were padded
    after all. Returns (batch, tokens, heads, head_dim) and no weights. Raises NotImplementedError
    for a model that asks for more."""
    for name in UNSUPPORTED_OPTIONS:
        if options.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")

    if cu_seq_lens_q is None:
        if attention_mask is None and query.shape[2] == key.shape[2]:
            attention_mask = _window_mask(query.shape[2], sliding_window, query.device)

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    scaling = options.get("scaling")

    if query.device.type == "cuda":
        attended = _flash_attention(
            query, key, value, cu_seq_lens_q, max_length_q, sliding_window, scaling
        )
        return attended, None

    lengths = tuple(end - start for start, end in pairwise(cu_seq_lens_q.tolist()))

    if query.dtype in (torch.bfloat16, torch.float16) and not options.get("dropout"):
        return causal_attention(query, key, value, lengths, scaling, sliding_window), None

    parts = []

    for q, k, v in split_rows(query, key, value, lengths):
        mask = _window_mask(q.shape[2], sliding_window, q.device)
        part, _ = sdpa_attention_forward(module, q, k, v, mask, **options)
        parts.append(part)

    return torch.cat(parts, dim=1), None


def _flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """All segments by one kernel, which computes in half precision alone.

    query: (1, heads, tokens, head_dim). Returns (1, tokens, heads, head_dim) in its dtype."""
    dtype = query.dtype
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")

    # (tokens, heads or kv_heads, head_dim)
    q, k, v = (tensor.transpose(1, 2).squeeze(0).to(dtype) for tensor in (query, key, value))
    attended = varlen_attn(
        q,
        k,
        v,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        # How many tokens before and behind itself each may see; -1 is all.
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )

    assert isinstance(attended, torch.Tensor)

    return attended.to(query.dtype).unsqueeze(0)


def _window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """None for plain causal attention; where the segment is longer than the window, (1, 1, length,
    length), bool, true where a query sees a key."""
    if window is None or length <= window:
        return None

    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    is_visible = (distance >= 0) & (distance < window)

    return is_visible[None, None]
