"""Arithmetic of a train that the form, the engine and the docs must agree on. Standard library
only."""

from __future__ import annotations

import math
import random

HOLDOUT_LIMIT = 200


def holdout_rows(rows: int, share: float) -> int:
    """Rows kept out of training: `share` of them, at least 1 where a share is asked for, at most
    200, never all."""
    if share <= 0 or rows < 2:
        return 0

    wanted = max(1, round(rows * share))
    return min(wanted, HOLDOUT_LIMIT, rows - 1)


def effective_batch(batch_size: int, accumulation: int, devices: int = 1) -> int:
    """Rows (or answers) of one optimizer step. `batch_size`: at once on each device."""
    return batch_size * accumulation * devices


def holdout_draw(rows: int, size: int, seed: int) -> list[int]:
    """Indices of the `size` rows that are held out of `rows`, the same ones for the same seed, in
    file order."""
    draw = random.Random(seed)  # noqa: S311 - a draw, no secret
    return sorted(draw.sample(range(rows), size))


def steps_per_epoch(train_rows: int, batch_size: int, accumulation: int, devices: int = 1) -> int:
    """Optimizer steps in one pass; a last batch that is not full counts, as in transformers'
    Trainer. Where devices have different numbers of batches, the last ones are filled up with the
    first rows."""
    batches = math.ceil(train_rows / batch_size)
    batches_of_each = math.ceil(batches / devices)
    return max(1, math.ceil(batches_of_each / accumulation))


def total_steps(
    train_rows: int,
    batch_size: int,
    accumulation: int,
    epochs: float | None,
    max_steps: int | None,
    devices: int = 1,
) -> int:
    """Optimizer steps of the whole train: `max_steps` where given, else `epochs` passes."""
    if max_steps is not None:
        return max_steps

    per_epoch = steps_per_epoch(train_rows, batch_size, accumulation, devices)
    return math.ceil((epochs or 1) * per_epoch)


def warmup_steps(total: int, ratio: float, scheduler: str) -> int:
    """Steps over which the learning rate climbs from 0, as in transformers' Trainer, but never all
    of them: the rate of the first step is 0, and a train of one step would learn nothing."""
    if scheduler == "constant":
        return 0

    wanted = math.ceil(total * ratio)
    return min(wanted, max(0, total - 1))


def warmup_is_long(total: int, warmup: int) -> bool:
    """Whether warm-up takes half of a train or more: of a very short one even a small share
    does."""
    return warmup > 0 and 2 * warmup >= total


def evaluations_left(after: int, total: int, evaluate_every: int, save_every: int) -> int:
    """Evaluations after step `after` up to step `total`: every `evaluate_every` steps, at the last
    step, and where a checkpoint is saved unless those are more frequent. 0 for `evaluate_every`:
    none. `save_every` 0: only at the end."""
    if not evaluate_every or after >= total:
        return 0

    count = _multiples(after, total, evaluate_every)
    last_counted = total % evaluate_every == 0

    if save_every >= evaluate_every:
        both = math.lcm(evaluate_every, save_every)
        count += _multiples(after, total, save_every) - _multiples(after, total, both)
        last_counted = last_counted or total % save_every == 0

    return count if last_counted else count + 1


def checkpoints_left(after: int, total: int, save_every: int) -> int:
    """Checkpoints after step `after` and before step `total`, where the model is saved too."""
    if not save_every:
        return 0

    return _multiples(after, total - 1, save_every)


def _multiples(after: int, last: int, every: int) -> int:
    """How many multiples of `every` are above `after` and at most `last`."""
    return max(0, last // every - after // every)
