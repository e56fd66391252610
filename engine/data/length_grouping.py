"""The order of rows: random, with rows of similar length in one batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

# Rows are sorted by length within pools of this many batches.
POOL_BATCHES = 16


class GroupedByLength(Sampler[int]):
    """Rows in random order, with rows of similar length in one batch, so that little is computed on
    padding.

    The order depends on seed and epoch alone: it is the same after a resume, and the same for 2
    accumulated batches of 4 rows as for one of 8. A last batch that is not full stays last."""

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

        full_rows = len(order) - len(order) % self.effective_batch
        batches = self._batches(order[:full_rows])
        draw.shuffle(batches)

        for batch in batches:
            yield from batch

        yield from order[full_rows:]

    def _batches(self, order: list[int]) -> list[list[int]]:
        """Batches of rows that are neighbours by length within their pool."""
        size = self.effective_batch
        batches = []

        for pool in chunks(order, size * POOL_BATCHES):
            by_length = sorted(pool, key=self.lengths.__getitem__)
            batches += chunks(by_length, size)

        return batches


def chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
