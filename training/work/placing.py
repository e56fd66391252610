"""Which waiting train could start now, and on which machine.

Trains start in the order of the queue. One that needs several devices of a machine gathers them:
while it is the first that cannot start, devices of one machine are kept for it as they fall free.
Trains behind it may have these meanwhile only where they are expected to end before it could start.
So it starts at the latest when what ran there has ended, and nothing behind it waits for longer than
for that. Where answers go first, nothing is kept for a train that needs a device on which models
answer: people may ask them for days.

Nothing is held for a train that gathers: what is kept is computed anew at each look, from the order
of the queue, the trains that run and the workers that are there. So nothing is stuck when a worker
ends, a train is stopped, or the order changes. Only the choice of the machine and the time of the
first estimate are stored with the train (`gathers_on`, `gathers_until`): were they computed anew too,
trains that take longer than was expected could put it off for ever.

Glossary:

width         How many devices of one machine a train needs.
machine       A host, and the workers of one slot on it, or a Ray cluster; see jobs.devices.machines.
launcher      Where a train may run: on machines of this platform, on a cluster, "" for anywhere.
to gather     To wait for devices of a machine that are kept as they fall free.
limit         In how many seconds the train that gathers on a machine could start there, at the
              earliest and no later than was first expected.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from jobs.devices.launchers import ANYWHERE, LOCAL
from training.models import TrainRun
from training.train.estimate import Estimate


class Times(Protocol):
    """How long trains take, see training.train.estimate.Estimator."""

    def of(self, run: TrainRun) -> Estimate | None: ...

    def left(self, run: TrainRun) -> Estimate | None: ...


@dataclass
class Machine:
    """A machine at this moment. free: devices that no train has. holders: the trains that have the
    others, one entry a device; None where nobody knows who has it. answering: further devices, on
    which models answer first for as long as they are asked. coming: further devices, whose workers
    were there a moment ago and are awaited. launcher: of trains that it runs."""

    key: str
    kind: str
    free: int
    holders: list[TrainRun | None] = field(default_factory=list)
    answering: int = 0
    coming: int = 0
    launcher: str = LOCAL

    @property
    def size(self) -> int:
        return self.falling_free + self.answering

    @property
    def falling_free(self) -> int:
        """How many devices are free once its trains have ended and its workers are back."""
        return self.free + len(self.holders) + self.coming

    def take(self, run: TrainRun) -> None:
        self.free -= run.width
        self.holders += [run] * run.width

    def seconds_until_free(self, count: int, times: Times) -> tuple[float, float]:
        """(at the earliest, as expected): in how many seconds `count` devices are free. A train of
        which nothing can be estimated may end at once, and is expected never to; so it is with a
        worker that is awaited."""
        missing = count - self.free
        if missing <= 0:
            return 0.0, 0.0

        left = [times.left(run) if run is not None else None for run in self.holders]
        left += [None] * self.coming
        earliest = sorted(_earliest(estimate) for estimate in left)
        expected = sorted(_expected(estimate) for estimate in left)

        return earliest[missing - 1], expected[missing - 1]


def _earliest(left: Estimate | None) -> float:
    return max(0.0, left.seconds - left.error) if left is not None else 0.0


def _expected(left: Estimate | None) -> float:
    return left.seconds if left is not None else math.inf


@dataclass(frozen=True)
class Wish:
    """A waiting train, the kinds of devices that can run it, and its launcher."""

    run: TrainRun
    kinds: Collection[str] = ("cpu", "cuda")
    launcher: str = ANYWHERE

    def can_be_on(self, machine: Machine) -> bool:
        """Whether it can run there once enough devices are free."""
        is_right = machine.kind in self.kinds and self.launcher in (ANYWHERE, machine.launcher)
        return is_right and machine.size >= self.run.width


@dataclass(frozen=True)
class Gathering:
    """`run` gathers on the machine `key`, where `free` devices are free. until: when it was to
    start there, None while that cannot be estimated."""

    run: TrainRun
    key: str
    free: int
    until: datetime | None


@dataclass
class Placement:
    """starts: (train, key of the machine) of those that could start now, in order. gathering: of
    those that gather. kept_out: trains for which there would be devices, were they not kept for
    others. answered: trains that cannot have enough devices as long as models answer.
    homeless: trains for which no machine that is there has enough devices."""

    starts: list[tuple[TrainRun, str]] = field(default_factory=list)
    gathering: list[Gathering] = field(default_factory=list)
    kept_out: list[TrainRun] = field(default_factory=list)
    answered: list[TrainRun] = field(default_factory=list)
    homeless: list[TrainRun] = field(default_factory=list)


def place(
    wishes: Iterable[Wish],
    machines: list[Machine],
    times: Times,
    now: datetime,
    *,
    own: str = "",
) -> Placement:
    """Look at the waiting trains in order. own: the key of a machine that is preferred, and with
    whose first train the look ends."""
    placer = _Placer(machines, times, now, own)
    for wish in wishes:
        placer.look(wish)
        if own and (placer.has_start_on(own) or not placer.free_on(own)):
            break

    return placer.placement


class _Placer:
    def __init__(self, machines: list[Machine], times: Times, now: datetime, own: str) -> None:
        self.machines = sorted(machines, key=lambda machine: machine.key != own)
        self.times = times
        self.now = now
        self.placement = Placement()
        # {key: limit} of machines on which a train gathers.
        self.limits: dict[str, float] = {}

    def has_start_on(self, key: str) -> bool:
        return any(place == key for _, place in self.placement.starts)

    def free_on(self, key: str) -> int:
        return sum(machine.free for machine in self.machines if machine.key == key)

    def look(self, wish: Wish) -> None:
        run = wish.run
        fitting = [machine for machine in self.machines if wish.can_be_on(machine)]
        if not fitting:
            self.placement.homeless.append(run)
            return

        roomy = [machine for machine in fitting if machine.free >= run.width]
        for machine in roomy:
            if self.may_start(run, machine):
                machine.take(run)
                self.placement.starts.append((run, machine.key))
                return

        if run.width > 1 and self.gather(run, fitting):
            return
        if roomy:
            self.placement.kept_out.append(run)
        elif all(machine.falling_free < run.width for machine in fitting):
            self.placement.answered.append(run)

    def may_start(self, run: TrainRun, machine: Machine) -> bool:
        """Not where an earlier train gathers, unless this one is expected to end before."""
        if machine.key not in self.limits:
            return True

        limit = self.limits[machine.key]
        # Without time there is nothing to estimate.
        whole = self.times.of(run) if limit > 0 else None
        return whole is not None and whole.seconds + whole.error <= limit

    def gather(self, run: TrainRun, fitting: list[Machine]) -> bool:
        """Keep a machine's devices for this train; none where earlier ones gather on all, and none
        where it needs a device on which models answer: nobody knows when they will not. Returns
        whether some are kept."""
        falling_free = [machine for machine in fitting if machine.falling_free >= run.width]
        left = [machine for machine in falling_free if machine.key not in self.limits]
        if not left:
            return False

        machine = next((machine for machine in left if machine.key == run.gathers_on), None)
        until = run.gathers_until if machine is not None else None
        if machine is None:
            machine = min(left, key=lambda machine: self._order(machine, run.width))

        earliest, expected = machine.seconds_until_free(run.width, self.times)
        if until is None and expected < math.inf:
            until = self.now + timedelta(seconds=expected)
        if until is not None:
            earliest = min(earliest, (until - self.now).total_seconds())

        self.limits[machine.key] = max(0.0, earliest)
        self.placement.gathering.append(Gathering(run, machine.key, machine.free, until))
        return True

    def _order(self, machine: Machine, width: int) -> tuple[float, int, str]:
        """The machine on which so many devices are free first; else where most are."""
        _, expected = machine.seconds_until_free(width, self.times)
        return expected, -machine.free, machine.key
