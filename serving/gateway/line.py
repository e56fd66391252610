"""Those who want an answer of one base model, and the order in which they get it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.gateway.prepared import Files
from serving.gateway.problems import ServeProblem
from serving.targets import Placement

if TYPE_CHECKING:
    from serving.gateway.child import Child

MOST_WAITING = 200
# How long people who wait for another model hold back those in the background; they say so again.
HOLD_SECONDS = 1.0

Event = dict[str, Any]


@dataclass(eq=False)
class Lease:
    """Somebody who wants an answer. background: whether all others pass. answers: whether they do
    not only count or load. events: for whoever holds it; after "lost" or "refused" there are
    none."""

    placement: Placement
    files: Files
    background: bool = False
    answers: bool = True
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    child: Child | None = None
    latest: Event = field(default_factory=dict)

    def tell(self, **event: Any) -> None:
        """Once, until there is something else to say."""
        if event != self.latest:
            self.latest = event
            self.events.put_nowait(event)

    @property
    def key(self) -> str:
        """Of its adapter, "" for the base alone."""
        return self.placement.adapter_key

    @property
    def is_persons_answer(self) -> bool:
        return self.answers and not self.background

    def refuse(self, problem: ServeProblem, phase: str = "refused") -> None:
        self.tell(phase=phase, message=problem.message, code=problem.code, status=problem.status)


class Line:
    """Who waits, the first one first: people, then those in the background."""

    def __init__(self) -> None:
        # As they came.
        self.leases: list[Lease] = []
        # Until then nothing begins in the background: people want another model.
        self.held_until = 0.0

    def __iter__(self) -> Iterator[Lease]:
        return iter(sorted(self.leases, key=lambda lease: lease.background))

    def __len__(self) -> int:
        return len(self.leases)

    def add(self, lease: Lease) -> None:
        """Raises ServeProblem where too many wait."""
        if len(self.leases) >= MOST_WAITING:
            raise ServeProblem(
                "Too many wait for this model. Try again in a minute.", code="busy", status=503
            )

        self.leases.append(lease)

    def remove(self, lease: Lease) -> None:
        """It may have left already."""
        if lease in self.leases:
            self.leases.remove(lease)

    def refuse(
        self, problem: ServeProblem, which: Callable[[Lease], bool] = lambda lease: True
    ) -> None:
        for lease in list(self.leases):
            if which(lease):
                self.leases.remove(lease)
                lease.refuse(problem)

    @property
    def has_people(self) -> bool:
        return any(not lease.background for lease in self.leases)

    def hold_background(self) -> None:
        """Begin nothing in the background for a moment: people wait for another model's place."""
        self.held_until = time.monotonic() + HOLD_SECONDS

    def holds(self, lease: Lease) -> bool:
        return lease.background and time.monotonic() < self.held_until
