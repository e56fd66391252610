"""An evaluation over several ranks, in which every held-out row counts once.

Ranks gather their results after each batch, so all of them must come with batches of one size. The
usual way out is to fill the last batches up with rows from the beginning, which then count twice.
Here the batches get smaller instead, in rounds of one batch for each rank:

    11 rows, 2 ranks, batches of 2       rank 0: 0 1    4 5    8    10
                                         rank 1: 2 3    6 7    9    10
    what a round counts for                      4      4      2     1

Rows that are too few for all ranks are computed by each of them: the mean over the ranks is
theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

from accelerate.data_loader import DataLoaderShard  # type: ignore[import-untyped]
from torch.utils.data import Sampler

from engine.distributed.ranks import Ranks


@dataclass(frozen=True)
class Round:
    """One batch for each rank. `rows`: how many different rows they hold; `copies`: how often each
    of them is computed."""

    batches: list[list[int]]
    rows: int
    copies: int = 1


def rounds(order: Sequence[int], batch_size: int, ranks: int, unit: int = 1) -> list[Round]:
    """The rows of `order`, each once. `unit`: so many rows belong together, and no round parts
    them; a full round must be a multiple of it."""
    result = []
    position = 0

    # The smallest number of rows of a rank with which a round holds whole units.
    step = unit // gcd(unit, ranks)

    while position < len(order):
        left = len(order) - position
        size = min(batch_size, left // ranks)
        size -= size % step

        if size:
            count = size * ranks
            rows = list(order[position : position + count])
            batches = [rows[start : start + size] for start in range(0, count, size)]
            result.append(Round(batches, count))
        else:
            count = min(unit, left)
            rows = list(order[position : position + count])
            result.append(Round([rows] * ranks, count, copies=ranks))

        position += count

    return result


class Rounds(Sampler[list[int]]):
    """This rank's batches, as a DataLoader takes them."""

    # What accelerate takes the number of rows to be a multiple of: no rows are left over that it
    # would have to leave out.
    batch_size = 1
    drop_last = False

    def __init__(self, plan: list[Round], rank: int) -> None:
        self.plan = plan
        self.rank = rank

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[int]]:
        for entry in self.plan:
            yield entry.batches[self.rank]


def evaluation_loader(trainer: Any, dataset: Any, ranks: Ranks) -> DataLoaderShard:
    """The held-out rows in the order that `trainer`, one of transformers, evaluates them in."""
    sampler = trainer._get_eval_sampler(dataset)
    order = list(range(len(dataset))) if sampler is None else list(sampler)
    unit = getattr(trainer, "num_generations_eval", 1)
    plan = rounds(order, trainer.args.eval_batch_size, ranks.count, unit)

    columns_kept = trainer._remove_unused_columns(dataset, description="evaluation")
    return DataLoaderShard(
        columns_kept,
        device=trainer.accelerator.device,
        batch_sampler=Rounds(plan, ranks.index),
        collate_fn=trainer.data_collator,
        num_workers=trainer.args.dataloader_num_workers,
        pin_memory=trainer.args.dataloader_pin_memory,
    )
