"""TRL's trainer with our order of rows, and means over tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Sampler
from trl.trainer.sft_trainer import SFTTrainer

from engine.recipes.sft.data import IGNORED
from engine.trainer import Seams

POOL_BATCHES = 16


class GroupedByLength(Sampler[int]):
    """Rows in random order, with rows of like length in one batch, so that little is computed on padding.

    The order depends on seed and epoch alone: the same before and after a resume, and the same for 2 batches of 4 rows
    added up as for one of 8. A last batch that is not full stays last.
    """

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
            batches += [rows[at : at + self.effective_batch] for at in range(0, len(rows), self.effective_batch)]
        draw.shuffle(batches)
        for batch in (*batches, order[full:]):
            yield from batch


class Trainer(Seams, SFTTrainer):
    """`grouped`: batches of rows of like length, in place of the trainer's own sampling strategies."""

    def __init__(self, *arguments: Any, grouped: bool, **options: Any) -> None:
        self.grouped = grouped
        self.measured: list[tuple[float, int]] = []
        super().__init__(*arguments, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.grouped:
            return super()._get_train_sampler(train_dataset)
        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        return GroupedByLength(
            lengths, self.args.train_batch_size * self.args.gradient_accumulation_steps, self.args.seed
        )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        found: Any = super().compute_loss(  # type: ignore[no-untyped-call]
            model, inputs, return_outputs, num_items_in_batch
        )
        if not model.training:
            loss = found[0] if return_outputs else found
            self.measured.append((float(loss), int((inputs["labels"][..., 1:] != IGNORED).sum())))
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Means over all held-out tokens. The trainer's own are means of batches: another batch size, another loss."""
        if "eval_loss" in logs and (total := sum(tokens for _, tokens in self.measured)):
            loss = logs["eval_loss"] = sum(loss * tokens for loss, tokens in self.measured) / total
            logs["eval_perplexity"] = math.exp(loss) if loss < 700 else math.inf
            for name in ("entropy", "mean_token_accuracy"):
                values = zip(self._metrics["eval"][name], self.measured, strict=True)
                self._metrics["eval"][name] = [sum(value * tokens for value, (_, tokens) in values) / total]
        self.measured.clear()
        super().log(logs, start_time)
