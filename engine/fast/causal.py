"""Causal attention of rows in half precision on a CPU: faster than torch's own, forward and
backward.

torch's flash attention for CPUs is made for long rows: it never holds the weights of more than a
tile of them. The rows of fine-tuning are short, and for them plain batched products are faster,
most of all in the backward. The weights of short rows are kept until then; those of long ones are
computed again, a block of queries at a time, so that no more memory is held for them than flash
attention holds. Each number is moved once on its way in and once on its way out: between products
this short, moving takes as long as multiplying. Where the processor multiplies tiles (AMX), torch's
forward is the faster one, and for long rows its backward too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

TILES = torch.cpu.get_capabilities().get("amx_bf16", False)
# From so many tokens on all of torch's own is faster there.
LONG = 224
# A block of weights, 9 heads of 192 queries by 512 keys in bf16, is 1.8 MB.
BLOCK = 192
# The weights of a row of so many tokens are about a quarter of what its layer keeps for the
# backward anyway.
KEPT = 256


class _Causal(torch.autograd.Function):
    """Inside, a row's queries are (groups, tokens * heads of a group, size), its keys and values
    (groups, tokens, size): a run of tokens is one matrix for each group, and batched products take
    it as it is."""

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
        """query: (1, heads, tokens, size); key: (1, groups, tokens, size); value: (1, groups,
        tokens, value size), a group serving heads / groups heads. lengths: of the rows, tokens
        together. window: how many tokens of its row, itself included, each may see. Returns (1,
        tokens, heads, value size)."""
        _, heads, tokens, _ = query.shape
        groups = key.shape[1]
        result = query.new_empty(1, tokens, heads, value.shape[-1])
        kept: list[torch.Tensor] = []
        learns = any(context.needs_input_grad)

        for row in _rows(lengths):
            found = [_of_row(whole, row, groups) for whole in (query, key, value)]
            queries, keys, values = found

            if TILES and window >= row.stop - row.start:
                own = _torchs(query[:, :, row], key[:, :, row], value[:, :, row], scale)
                result[:, row] = own.transpose(1, 2)
            else:
                by_group = _by_group(result, row, groups)
                for asking, seen in _blocks(row, window):
                    weights = _weights(queries, keys, scale, window, asking, seen)
                    by_group[:, asking] = torch.bmm(weights, values[:, seen]).view(
                        by_group[:, asking].shape
                    )

                    if _is_kept(row, window):
                        found.append(weights)

            if learns:
                kept += found

        if learns:
            context.save_for_backward(*kept)

        context.lengths, context.scale, context.window = lengths, scale, window
        context.heads, context.sizes = (heads, groups), (key.shape[-1], value.shape[-1])
        return result

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        heads, groups = context.heads
        size, value_size = context.sizes
        saved = iter(context.saved_tensors)
        tokens = gradient.shape[1]

        # As the layers before have them: token by token.
        shapes = (heads, size), (groups, size), (groups, value_size)
        to_inputs = [gradient.new_empty(1, tokens, *shape) for shape in shapes]

        for row in _rows(context.lengths):
            queries, keys, values = next(saved), next(saved), next(saved)
            pulls = _of_row(gradient.transpose(1, 2), row, groups)
            to_query, to_key, to_value = (_by_group(whole, row, groups) for whole in to_inputs)
            scaled = values * context.scale
            blocks = list(_blocks(row, context.window))
            sums = _Sums(to_key.squeeze(2), to_value.squeeze(2), alone=len(blocks) == 1)

            for asking, seen in blocks:
                if _is_kept(row, context.window):
                    weights = next(saved)
                else:
                    weights = _weights(queries, keys, context.scale, context.window, asking, seen)

                rows = _rows_of(asking, heads // groups)
                pull = pulls[:, rows]
                to_weights = torch.bmm(pull, scaled[:, seen].transpose(1, 2))
                to_scores = torch._softmax_backward_data(to_weights, weights, -1, keys.dtype)
                to_query[:, asking] = torch.bmm(to_scores, keys[:, seen]).view(
                    to_query[:, asking].shape
                )
                # Both without the scale: `scaled` has brought it in.
                to_seen = torch.bmm(to_scores.transpose(1, 2), queries[:, rows])
                sums.add(seen, to_seen, torch.bmm(weights.transpose(1, 2), pull))

            sums.write()

        return (*(whole.transpose(1, 2) for whole in to_inputs), None, None, None)


def _of_row(whole: torch.Tensor, row: slice, groups: int) -> torch.Tensor:
    """Of (1, heads, tokens, size) a row's own (groups, its tokens * heads of a group, size), in one
    piece."""
    return (
        _grouped(whole[0, :, row], 0, groups).transpose(1, 2).reshape(groups, -1, whole.shape[-1])
    )


def _by_group(whole: torch.Tensor, row: slice, groups: int) -> torch.Tensor:
    """A row's part of (1, tokens, heads, size), to be written to: (groups, its tokens, heads of a
    group, size)."""
    return _grouped(whole[0, row], 1, groups).transpose(0, 1)


def _grouped(part: torch.Tensor, dimension: int, groups: int) -> torch.Tensor:
    """Heads as (groups, heads of a group)."""
    return part.unflatten(dimension, (groups, -1))  # type: ignore[no-any-return, no-untyped-call]


class _Sums:
    """What the blocks of a row add up to for its keys and values, in fp32 where there are
    several."""

    def __init__(self, to_key: torch.Tensor, to_value: torch.Tensor, *, alone: bool) -> None:
        self.targets = (to_key, to_value)
        self.sums = None if alone else tuple(torch.zeros(target.shape) for target in self.targets)

    def add(self, within: slice, *parts: torch.Tensor) -> None:
        for into, part in zip(self.sums or self.targets, parts, strict=True):
            if self.sums is None:
                into[:, within] = part
            else:
                into[:, within] += part

    def write(self) -> None:
        for target, found in zip(self.targets, self.sums or (), strict=False):
            target.copy_(found)


def causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """As _Causal.forward; `scale` is 1 / sqrt(size) and `window` all tokens of a row where they are
    None."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    window = window or max(lengths)

    if not TILES or max(lengths) < LONG:
        result: torch.Tensor = _Causal.apply(query, key, value, lengths, scale, window)  # type: ignore[no-untyped-call]
        return result

    parts = []
    for q, k, v in rows_apart(query, key, value, lengths):
        if (length := q.shape[2]) >= LONG and window >= length:
            parts.append(_torchs(q, k, v, scale).transpose(1, 2))
        else:
            parts.append(_Causal.apply(q, k, v, (length,), scale, window))  # type: ignore[no-untyped-call]

    return torch.cat(parts, dim=1)


def rows_apart(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Each row's own part of the three, (1, heads, tokens, size)."""
    # Split and not sliced: the gradient of every slice would be a tensor as large as the whole.
    return zip(
        *(torch.split(whole, list(lengths), dim=2) for whole in (query, key, value)), strict=True
    )


def _torchs(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    return scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=True
    )


def _rows(lengths: tuple[int, ...]) -> Iterator[slice]:
    for length, end in zip(lengths, accumulate(lengths), strict=True):
        yield slice(end - length, end)


def _is_kept(row: slice, window: int) -> bool:
    length = row.stop - row.start
    return length <= KEPT and not (TILES and window >= length)


def _blocks(row: slice, window: int) -> Iterator[tuple[slice, slice]]:
    """(queries, the keys that some of them sees), in blocks of like size, counted from the row's
    first token."""
    tokens = row.stop - row.start
    step = -(-tokens // -(-tokens // BLOCK))

    for start in range(0, tokens, step):
        end = min(start + step, tokens)
        yield slice(start, end), slice(max(0, start - window + 1), end)


def _rows_of(asking: slice, heads: int) -> slice:
    """Of queries that lie token by token, `heads` for each."""
    return slice(asking.start * heads, asking.stop * heads)


def _weights(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, window: int, asking: slice, seen: slice
) -> torch.Tensor:
    """Attention weights, (groups, asking * heads of a group, seen), in the queries' precision.

    Scores are computed in fp32: rounded to 8 bits a score of 40 is off by up to 0.13, and its
    weight by 13 %."""
    heads = queries.shape[1] // keys.shape[1]
    offset, rows = asking.start - seen.start, asking.stop - asking.start
    hidden = _hidden(offset, rows, min(window, offset + rows), heads)

    asked = queries[:, _rows_of(asking, heads)].float()
    scores = torch.baddbmm(hidden, asked, keys[:, seen].float().transpose(1, 2), alpha=scale)

    return torch.softmax(scores, -1).to(queries.dtype)


@lru_cache(maxsize=64)
def _hidden(offset: int, rows: int, window: int, heads: int) -> torch.Tensor:
    """(rows * heads, offset + rows) of 0 where a query may look and -inf elsewhere; the first one
    is token `offset`."""
    position = torch.arange(offset, offset + rows)[:, None]
    behind = position - torch.arange(offset + rows)[None]
    hidden = torch.zeros(rows, offset + rows).masked_fill_(
        (behind < 0) | (behind >= window), -torch.inf
    )

    return hidden.repeat_interleave(heads, 0)
