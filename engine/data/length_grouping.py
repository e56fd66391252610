"""The order of rows: random, with rows of like length in one batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

POOL_BATCHES = 16


class GroupedByLength(Sampler[int]):
    """Rows in random order, with rows of like length in one batch, so that little is computed on
    padding.

    The order depends on seed and epoch alone: the same before and after a resume, and the same for
    2 batches of 4 rows added up as for one of 8. A last batch that is not full stays last."""

    def __init__(self, lengths: Sequence[int], effective_batch: int, seed: int) -> None:
        self.lengths = lengths
        self.effective_batch = effective_batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(self.seed * 1_000_003 + self.epoch)  # noqa: S311 - an order, no secret
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        full = len(order) - len(order) % self.effective_batch
        pool = self.effective_batch * POOL_BATCHES
        batches: list[list[int]] = []

        for start in range(0, full, pool):
            rows = sorted(order[start : min(start + pool, full)], key=lambda row: self.lengths[row])
            batches += [
                rows[at : at + self.effective_batch]
                for at in range(0, len(rows), self.effective_batch)
            ]

        draw.shuffle(batches)
        for batch in (*batches, order[full:]):
            yield from batch
