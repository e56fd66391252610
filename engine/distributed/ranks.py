"""The processes of one train, and the questions that they ask each other.

A train on several devices is as many processes, its ranks, which run the same code on different
rows. Rank 0, the first, is the one that writes: events, log, samples, checkpoints, model. What
decides the course of the train (a stop, a save, an end) is asked of all at once, between two steps,
so that all of them act after the same step.

Torch is imported where a question is asked: a train of one rank asks none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from engine.messages.failures import TrainError
from engine.messages.plural import counted

T = TypeVar("T")

# Rank 0 may write answers or tokenise for hours while the others wait. Whoever dies meanwhile is
# noticed by the process that started them (engine.distributed.launch), and never by a clock.
TIMEOUT = timedelta(days=30)
# Between the seeds of two ranks, so that neighbouring seeds of people do not share a rank's.
SEED_DISTANCE = 1_000_003


@dataclass(frozen=True)
class Ranks:
    """`count` ranks, of which this process is number `index`. `store`: the file through which they
    find each other; None where they have met already."""

    count: int = 1
    index: int = 0
    store: Path | None = None

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def are_several(self) -> bool:
        return self.count > 1

    def join(self) -> None:
        """Meet the others: NCCL between GPUs, gloo between processors, and gloo for all questions
        below. Comes after the fork and before any other tensor operation. On a cluster whoever
        started the ranks has had them meet."""
        if not self.are_several:
            return

        import torch

        if torch.distributed.is_initialized():
            return

        from torch._C._distributed_c10d import FileStore

        backend = "gloo"
        if torch.cuda.is_available():
            self._check_gpus(torch.cuda.device_count())
            torch.cuda.set_device(self.index)
            backend = "cpu:gloo,cuda:nccl"

        torch.distributed.init_process_group(
            backend,
            store=FileStore(str(self.store), self.count),
            rank=self.index,
            world_size=self.count,
            timeout=TIMEOUT,
        )

    def _check_gpus(self, present: int) -> None:
        if self.count > present:
            raise TrainError(
                "too_few_devices",
                f"{self.count:,} devices are asked for, and {counted(present, 'GPU')} can be used "
                "here.",
                "Copy the train with fewer devices.",
            )

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.are_several:
            self.totals([0.0])

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """In the block rank 0 alone; when it has left it, all others."""
        if not self.is_first:
            self.barrier()

        yield

        if self.is_first:
            self.barrier()

    def any_of(self, *wishes: bool) -> tuple[bool, ...]:
        """For each wish, whether one of the ranks has it."""
        if not self.are_several:
            return wishes

        return tuple(number > 0 for number in self.totals([float(wish) for wish in wishes]))

    def totals(self, values: Sequence[float]) -> list[float]:
        """Each value's sum over the ranks, which must all bring as many; the same on all of them."""
        if not self.are_several:
            return list(values)

        import torch

        sums = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def means(self, values: Sequence[float]) -> list[float]:
        return [total / self.count for total in self.totals(values)]

    def largest(self, value: float) -> float:
        return max(self.gathered(value)) if self.are_several else value

    def of_first(self, value: T) -> T:
        """What rank 0 has for `value`. Ranks bring objects that can be pickled."""
        if not self.are_several:
            return value

        import torch

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """The values of all, by rank."""
        if not self.are_several:
            return [value]

        import torch

        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found

    def summed(self, tensor: Any) -> Any:
        """A tensor's sum over the ranks, on its device."""
        if not self.are_several:
            return tensor

        import torch

        total = tensor.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def average_gradients(self, module: Any) -> None:
        """Give the weights of `module` the mean of all ranks' gradients, as DDP does to the model
        that it wraps."""
        if not self.are_several:
            return

        for weight in module.parameters():
            if weight.grad is not None:
                weight.grad.copy_(self.summed(weight.grad) / self.count)

    def seed_apart(self, seed: int) -> None:
        """From here on each rank draws random numbers of its own: else all of them would write the
        same answers. Rank 0 goes on with the numbers that a train of one rank draws."""
        if self.is_first:
            return

        import numpy
        import torch

        own = (seed + self.index * SEED_DISTANCE) % 2**32
        random.seed(own)
        numpy.random.seed(own)
        torch.manual_seed(own)


ALONE = Ranks()
