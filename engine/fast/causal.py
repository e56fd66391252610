"""Causal attention of rows in half precision on a CPU: faster than torch's own, forward and
backward.

torch's flash attention for CPUs is made for long rows: it never holds the attention weights of more
than a tile. The rows of fine-tuning are short, and for them plain batched matrix products are
faster, most of all in the backward pass. The weights of short rows are kept for it; those of long
ones are computed again, a block of queries at a time, so that no more memory is held for them than
flash attention holds. Each number is moved once on its way in and once on its way out: between
products this short, moving takes as long as multiplying. Where the processor multiplies tiles
(AMX), torch's forward is the faster one, and for long rows its backward too.

A batch is one sequence of rows that lie end to end; lengths = (3, 5):

    token     A0 A1 A2 B0 B1 B2 B3 B4          (1, heads, tokens, head_dim)

A row's part is copied into one piece a kv head, token by token. With 4 heads that share 2 kv heads,
heads 0 and 1 read kv head 0, heads 2 and 3 read kv head 1:

    queries of kv head 0    A0h0 A0h1 A1h0 A1h1 A2h0 A2h1      (kv_heads, tokens * group, head_dim)
    keys of kv head 0       A0   A1   A2                       (kv_heads, tokens, head_dim)

so that any range of tokens is one matrix for each kv head, and torch.bmm takes it as it is. `group`
is heads / kv_heads. A long row is computed in blocks: a query range and the key range that it may
see. With blocks of 2 tokens, without and with a window of 2:

    query range    key range        key range, window 2
    [0, 2)         [0, 2)           [0, 2)
    [2, 4)         [0, 4)           [1, 4)
    [4, 5)         [0, 5)           [3, 5)"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

TILES = torch.cpu.get_capabilities().get("amx_bf16", False)
# With tiles, torch's own attention is faster for rows of so many tokens and more.
LONG = 224
# Queries of a block. Its weights, 9 heads of 192 queries by 512 keys in bf16, are 1.8 MB.
BLOCK = 192
# Rows of up to so many tokens keep their weights for the backward pass: about a quarter of what
# their layer keeps for it anyway.
KEPT = 256


class _CausalAttention(torch.autograd.Function):
    """Rows end to end, each attending to itself alone. Shapes inside are those of a row's part in
    the module's docstring."""

    @staticmethod
    def forward(
        context: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: tuple[int, ...],
        scale: float,
        window: int,
    ) -> torch.Tensor:
        """query: (1, heads, tokens, head_dim); key: (1, kv_heads, tokens, head_dim); value: (1,
        kv_heads, tokens, value_dim), all in one half precision. lengths: tokens of each row,
        together `tokens`. window: how many tokens of its row, itself included, a token may see.

        Returns (1, tokens, heads, value_dim) in the dtype of `query`."""
        _, heads, tokens, _ = query.shape
        kv_heads = key.shape[1]
        result = query.new_empty(1, tokens, heads, value.shape[-1])
        saved: list[torch.Tensor] = []
        needs_gradient = any(context.needs_input_grad)

        for row in _rows(lengths):
            queries = _row_part(query, row, kv_heads)
            keys = _row_part(key, row, kv_heads)
            values = _row_part(value, row, kv_heads)
            saved_of_row = [queries, keys, values]

            if TILES and window >= row.stop - row.start:
                attended = _torch_attention(
                    query[:, :, row], key[:, :, row], value[:, :, row], scale
                )
                result[:, row] = attended.transpose(1, 2)
            else:
                # (kv_heads, tokens of the row, group, value_dim), a view of `result`.
                row_result = _row_view(result, row, kv_heads)

                for query_range, key_range in _blocks(row, window):
                    weights = _attention_weights(
                        queries, keys, scale, window, query_range, key_range
                    )
                    attended = torch.bmm(weights, values[:, key_range])
                    target = row_result[:, query_range]
                    target.copy_(attended.view(target.shape))

                    if _is_kept(row, window):
                        saved_of_row.append(weights)

            if needs_gradient:
                saved += saved_of_row

        if needs_gradient:
            context.save_for_backward(*saved)

        context.lengths = lengths
        context.scale = scale
        context.window = window
        context.heads = (heads, kv_heads)
        context.dims = (key.shape[-1], value.shape[-1])

        return result

    @staticmethod
    def backward(context: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """With weights P, values V and scores S = scale Q K': grad_V = P' grad_output, grad_P =
        grad_output V', grad_S by softmax, grad_Q = scale grad_S K, grad_K = scale grad_S' Q."""
        (grad_output,) = grad_outputs  # (1, tokens, heads, value_dim)
        heads, kv_heads = context.heads
        head_dim, value_dim = context.dims
        group = heads // kv_heads
        saved = iter(context.saved_tensors)
        tokens = grad_output.shape[1]

        # Token by token, as the layers before have them.
        grad_query = grad_output.new_empty(1, tokens, heads, head_dim)
        grad_key = grad_output.new_empty(1, tokens, kv_heads, head_dim)
        grad_value = grad_output.new_empty(1, tokens, kv_heads, value_dim)

        for row in _rows(context.lengths):
            queries = next(saved)  # (kv_heads, tokens * group, head_dim)
            keys = next(saved)  # (kv_heads, tokens, head_dim)
            values = next(saved)  # (kv_heads, tokens, value_dim)
            # (kv_heads, tokens * group, value_dim)
            row_grad_output = _row_part(grad_output.transpose(1, 2), row, kv_heads)
            # (kv_heads, tokens, group, head_dim), a view of grad_query.
            row_grad_query = _row_view(grad_query, row, kv_heads)
            # Brings the scale into grad_S, and with it into both grad_Q and grad_K.
            scaled_values = values * context.scale

            blocks = list(_blocks(row, context.window))
            sums = _KeyValueGradients(
                _row_view(grad_key, row, kv_heads).squeeze(2),
                _row_view(grad_value, row, kv_heads).squeeze(2),
                is_single_block=len(blocks) == 1,
            )

            for query_range, key_range in blocks:
                if _is_kept(row, context.window):
                    weights = next(saved)
                else:
                    weights = _attention_weights(
                        queries, keys, context.scale, context.window, query_range, key_range
                    )

                query_rows = _query_rows(query_range, group)
                block_grad = row_grad_output[:, query_rows]
                # Both (kv_heads, queries * group, keys).
                grad_weights = torch.bmm(block_grad, scaled_values[:, key_range].transpose(1, 2))
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, keys.dtype)

                target = row_grad_query[:, query_range]
                target.copy_(torch.bmm(grad_scores, keys[:, key_range]).view(target.shape))
                sums.add(
                    key_range,
                    torch.bmm(grad_scores.transpose(1, 2), queries[:, query_rows]),
                    torch.bmm(weights.transpose(1, 2), block_grad),
                )

            sums.write()

        gradients = (grad.transpose(1, 2) for grad in (grad_query, grad_key, grad_value))
        return (*gradients, None, None, None)


def _row_part(whole: torch.Tensor, row: slice, kv_heads: int) -> torch.Tensor:
    """A row's own copy of (1, heads or kv_heads, tokens, dim), in one piece: (kv_heads, its tokens
    * group, dim), where group is 1 for keys and values."""
    by_kv_head = _split_heads(whole[0, :, row], 0, kv_heads)  # (kv_heads, group, its tokens, dim)
    return by_kv_head.transpose(1, 2).reshape(kv_heads, -1, whole.shape[-1])


def _row_view(whole: torch.Tensor, row: slice, kv_heads: int) -> torch.Tensor:
    """A row's part of (1, tokens, heads or kv_heads, dim), to be written to: (kv_heads, its tokens,
    group, dim)."""
    return _split_heads(whole[0, row], 1, kv_heads).transpose(0, 1)


def _split_heads(part: torch.Tensor, dimension: int, kv_heads: int) -> torch.Tensor:
    """Heads as (kv_heads, group)."""
    return part.unflatten(dimension, (kv_heads, -1))  # type: ignore[no-any-return, no-untyped-call]


class _KeyValueGradients:
    """The gradients of a row's keys and values, summed over its blocks: in fp32 where there are
    several, else straight into the target."""

    def __init__(
        self, grad_key: torch.Tensor, grad_value: torch.Tensor, *, is_single_block: bool
    ) -> None:
        """grad_key, grad_value: (kv_heads, tokens, dim), what is written to."""
        self.targets = (grad_key, grad_value)
        self.sums: tuple[torch.Tensor, ...] | None = None

        if not is_single_block:
            self.sums = tuple(torch.zeros(target.shape) for target in self.targets)

    def add(self, key_range: slice, *parts: torch.Tensor) -> None:
        """parts: a block's gradients of keys and of values, (kv_heads, keys, dim)."""
        for into, part in zip(self.sums or self.targets, parts, strict=True):
            if self.sums is None:
                into[:, key_range] = part
            else:
                into[:, key_range] += part

    def write(self) -> None:
        if self.sums is None:
            return

        for target, total in zip(self.targets, self.sums, strict=True):
            target.copy_(total)


def causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of rows that lie end to end. Arguments and result are those of
    _CausalAttention.forward; `scale` None is 1 / sqrt(head_dim), `window` None all tokens of a
    row."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    window = window or max(lengths)

    if not TILES or max(lengths) < LONG:
        result: torch.Tensor = _CausalAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, lengths, scale, window
        )
        return result

    parts = []

    for q, k, v in split_rows(query, key, value, lengths):
        length = q.shape[2]
        if length >= LONG and window >= length:
            part = _torch_attention(q, k, v, scale).transpose(1, 2)
        else:
            part = _CausalAttention.apply(q, k, v, (length,), scale, window)  # type: ignore[no-untyped-call]

        parts.append(part)

    return torch.cat(parts, dim=1)


def split_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Each row's own query, key and value, (1, heads or kv_heads, its tokens, head_dim)."""
    # Split, not sliced: the gradient of every slice would be a tensor as large as the whole.
    split = [torch.split(whole, list(lengths), dim=2) for whole in (query, key, value)]
    return zip(*split, strict=True)


def _torch_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """query: (1, heads, tokens, head_dim). Returns that shape."""
    return scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=True
    )


def _rows(lengths: tuple[int, ...]) -> Iterator[slice]:
    """The range of tokens of each row."""
    for length, end in zip(lengths, accumulate(lengths), strict=True):
        yield slice(end - length, end)


def _is_kept(row: slice, window: int) -> bool:
    """Whether the forward pass saves the row's attention weights."""
    length = row.stop - row.start
    return length <= KEPT and not (TILES and window >= length)


def _blocks(row: slice, window: int) -> Iterator[tuple[slice, slice]]:
    """(query range, range of the keys that some of these queries see), counted from the row's first
    token, in blocks of about the same size."""
    tokens = row.stop - row.start
    block_count = -(-tokens // BLOCK)
    step = -(-tokens // block_count)

    for start in range(0, tokens, step):
        end = min(start + step, tokens)
        yield slice(start, end), slice(max(0, start - window + 1), end)


def _query_rows(query_range: slice, group: int) -> slice:
    """A range of tokens as rows of the matrix of queries, which holds `group` for each token."""
    return slice(query_range.start * group, query_range.stop * group)


def _attention_weights(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: float,
    window: int,
    query_range: slice,
    key_range: slice,
) -> torch.Tensor:
    """queries: (kv_heads, tokens * group, head_dim); keys: (kv_heads, tokens, head_dim). Returns
    the weights of one block, (kv_heads, queries * group, keys), in the dtype of `queries`.

    Scores are computed in fp32: rounded to 8 bits a score of 40 is off by up to 0.13, and its
    weight by 13 %."""
    group = queries.shape[1] // keys.shape[1]
    offset = query_range.start - key_range.start
    query_count = query_range.stop - query_range.start
    mask = _causal_mask(offset, query_count, min(window, offset + query_count), group)

    block_queries = queries[:, _query_rows(query_range, group)].float()
    block_keys = keys[:, key_range].float().transpose(1, 2)
    scores = torch.baddbmm(mask, block_queries, block_keys, alpha=scale)

    return torch.softmax(scores, -1).to(queries.dtype)


@lru_cache(maxsize=64)
def _causal_mask(offset: int, query_count: int, window: int, group: int) -> torch.Tensor:
    """(query_count * group, offset + query_count), fp32: 0 where a query may look and -inf
    elsewhere. The first query is token `offset` of the key range."""
    key_count = offset + query_count
    query_positions = torch.arange(offset, key_count)[:, None]
    distance = query_positions - torch.arange(key_count)[None]
    is_hidden = (distance < 0) | (distance >= window)

    mask = torch.zeros(query_count, key_count).masked_fill_(is_hidden, -torch.inf)
    return mask.repeat_interleave(group, 0)
