"""What serves one base model: child processes with the adapters that were asked for, and the line
of those who want an answer.

llama.cpp writes answers at once only where they use the same adapter, and takes adapters only when
it starts. So an adapter that no child has, or that all are too busy with others for, means another
child beside the first: both map the same file, so that the weights are in memory once. There are at
most MOST_CHILDREN; then whoever comes waits for the end of other answers, in order. When weights
change, or the number of threads, because a train has started or ended, a new child takes over, and
those before it finish the answers that they have begun.

A backend that has weights of its own in each process has one child, which mixes adapters itself; a
new one gets its turn when the earlier one has finished."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from core.memory import memory_available
from serving.gateway.adapters import Adapters
from serving.gateway.child import Child, ChildOrder, background
from serving.gateway.line import Lease, Line
from serving.gateway.prepared import Files
from serving.gateway.problems import FAULT, ServeProblem
from serving.targets import Placement

# So many deaths in so many seconds, and nobody is answered for as long.
DEATHS, DEATH_SECONDS = 3, 60.0
MOST_CHILDREN = 3
# Children of one model that still finish answers.
MOST_LEAVING = 2
# How long one that is not the newest may be idle.
SPARE_SECONDS = 60.0
# What another child takes beside weights that are there, and when it is looked for again.
SPARE_BYTES = 400 * 2**20
SPARE_AGAIN_SECONDS = 5.0
OTHERS = "Waiting for the end of other answers"
NO_ROOM = "Waiting for the end of another adapter's answer: there is no memory for both at once"
PEOPLE_FIRST = "Waiting until people who ask another model are answered"
BESIDE_A_TRAIN = "A train runs on the same device, so answers take longer."
CHANGED = ServeProblem("The files of this model have changed. Ask again.", code="server_lost")

logger = logging.getLogger("deepextension.gateway")


class Host(Protocol):
    """What a model server needs of the gateway."""

    @property
    def threads(self) -> int: ...

    @property
    def is_beside_a_train(self) -> bool: ...

    @property
    def visible_devices(self) -> str: ...

    def device_locks(self) -> list[int]: ...

    async def make_room(self, server: ModelServer, needed_bytes: int) -> str: ...

    def changed(self) -> None: ...


class ModelServer:
    def __init__(self, base_key: str, backend: str, host: Host) -> None:
        self.base_key = base_key
        self.backend = backend
        self.host = host
        # The newest at the end.
        self.current: list[Child] = []
        self.coming: Child | None = None
        self.leaving: set[Child] = set()
        self.line = Line()
        self.adapters = Adapters()
        self.deaths: deque[float] = deque(maxlen=DEATHS)
        self.last_words = ""
        self.load_seconds: float | None = None
        self.loading: asyncio.Task[None] | None = None
        # Bytes that what is being loaded will take.
        self.takes_bytes = 0
        self.no_spare_until = 0.0
        self.is_held_back = False
        self.base_mark = ""
        self.used_at = time.monotonic()
        # When somebody had an answer for whom trains wait where answers go first.
        self.answered_at = float("-inf")
        # Nobody may be answered any more: its model is gone, or the gateway ends.
        self.closed: ServeProblem | None = None

    # Who wants an answer

    def ask(
        self,
        placement: Placement,
        files: Files,
        *,
        background: bool = False,
        answers: bool = True,
    ) -> Lease:
        """A place in line. Raises ServeProblem where nobody is answered."""
        if self.closed is not None:
            raise self.closed

        self._deaths_check()
        self.adapters.check(files)
        if files.base_mark != self.base_mark:
            # No child will have the weights any more that others wait for.
            self.base_mark = files.base_mark
            self.line.refuse(CHANGED, lambda lease: lease.files.base_mark != self.base_mark)

        lease = Lease(placement, files, background, answers)
        self.line.add(lease)
        self.adapters.ask(files)
        self.step()
        return lease

    def leave(self, lease: Lease) -> None:
        """It has its answer, or wants none any more."""
        self.line.remove(lease)
        child = lease.child
        if child is not None:
            child.leases.discard(lease)
            child.used_at = self.used_at = time.monotonic()
            if lease.is_persons_answer:
                self.answered_at = self.used_at

        self.step()
        self.host.changed()

    @property
    def child(self) -> Child | None:
        """The newest."""
        return self.current[-1] if self.current else None

    def context_of(self, files: Files) -> int:
        """Tokens of one conversation of a child that has them; 0 where none has."""
        for child in self.current:
            if child.order.serves(files):
                return int(child.ready["context"])

        return 0

    def _deaths_check(self) -> None:
        """Raises ServeProblem where it died too often just now."""
        now = time.monotonic()
        if len(self.deaths) == DEATHS and now - self.deaths[0] < DEATH_SECONDS:
            seconds = round(DEATH_SECONDS - (now - self.deaths[-1]))
            if seconds > 0:
                words = f" Its last words: {self.last_words}." if self.last_words else ""
                raise ServeProblem(
                    f"The model server ended {DEATHS} times within a minute and is left alone for "
                    f"{seconds} s.{words}",
                    code="server_lost",
                )

            self.deaths.clear()

    # What happens next

    def step(self) -> None:
        """Grant what can be granted, in order, and see that the rest will be."""
        if self.closed is not None:
            self.line.refuse(self.closed)
            return

        position = 0
        needs_another = False
        # Who waits for a child keeps others with another adapter from it.
        reserved: dict[Child, str] = {}

        for lease in self.line:
            child = self._place(lease, reserved)
            if child is not None:
                self._grant(lease, child)
                continue

            position += 1
            if self.line.holds(lease):
                lease.tell(phase="waiting", words=PEOPLE_FIRST, position=position)
                continue

            fitting = [child for child in self.current if self._fits(child, lease.files)]
            if not fitting or self._may_add(lease, fitting):
                needs_another = True
                lease.tell(phase="loading", words=self._loading_words(), position=position)
                continue

            reserved.setdefault(min(fitting, key=lambda child: len(child.answering)), lease.key)
            place = f", place {position}" if position > 1 else ""
            words = OTHERS if time.monotonic() > self.no_spare_until else NO_ROOM
            lease.tell(phase="waiting", words=words + place, position=position)

        self._end_left()
        if needs_another and self.loading is None:
            self.loading = asyncio.create_task(self._load())

    def _place(self, lease: Lease, reserved: dict[Child, str]) -> Child | None:
        """A child that can begin to answer it now."""
        is_replaced = self.loading is not None and not self._shares_weights
        if is_replaced or self.is_held_back:
            # Another child waits for the end of the present ones.
            return None
        if self.line.holds(lease):
            return None

        fitting = [child for child in self.current if self._fits(child, lease.files)]
        if not lease.answers and fitting:
            # Counting needs no part of the KV cache, so nobody waits for an end with it.
            return fitting[-1]

        key = lease.key
        free = [
            child
            for child in fitting
            if len(child.answering) < child.parallel
            and reserved.get(child, key) == key
            and (_answers_only(child, key) or not self._shares_weights)
        ]
        # One that is busy with that adapter leaves idle ones to others.
        return max(free, key=lambda child: len(child.answering), default=None)

    def _may_add(self, lease: Lease, fitting: list[Child]) -> bool:
        """Whether another child is worth it: all are busy with other adapters."""
        if not self._shares_weights or len(self.current) >= MOST_CHILDREN:
            return False
        if time.monotonic() < self.no_spare_until:
            return False

        return not any(_answers_only(child, lease.key) for child in fitting)

    def _fits(self, child: Child, files: Files) -> bool:
        """Whether that child answers for those files, as the device is used now."""
        return child.order.serves(files) and self._is_up_to_date(child)

    def _is_up_to_date(self, child: Child) -> bool:
        order = child.order
        if order.files.base_mark != self.base_mark:
            return False

        host = self.host
        wanted = (host.threads, host.is_beside_a_train, host.visible_devices)
        return (order.threads, order.is_beside_a_train, order.visible_devices) == wanted

    @property
    def is_elsewhere(self) -> bool:
        """Whether a child is on a device that models have left to a train."""
        wanted = self.host.visible_devices
        return any(child.order.visible_devices != wanted for child in self.children)

    @property
    def _shares_weights(self) -> bool:
        from engine.serving.order import LLAMA_CPP

        return self.backend == LLAMA_CPP

    def _loading_words(self) -> str:
        if self.load_seconds is None:
            return "Loading the model"

        return f"Loading the model (about {max(1, round(self.load_seconds))} s)"

    def _grant(self, lease: Lease, child: Child) -> None:
        self.line.remove(lease)
        lease.child = child
        child.leases.add(lease)
        child.used_at = self.used_at = time.monotonic()
        ready = child.ready

        lease.tell(
            phase="ready",
            url=ready["url"],
            key=ready["key"],
            extras=ready["extras"][lease.key],
            context=ready["context"],
            abilities=ready["abilities"],
            most_choices=ready.get("most_choices", 1),
            marks=ready.get("marks", []),
            backend=self.backend,
            note=_note(lease.files, child),
        )

    def _end_left(self) -> None:
        for child in list(self.leaving):
            if not child.leases:
                self.leaving.discard(child)
                child.end()

    # Loading

    async def _load(self) -> None:
        """Have a child that fits the first in line that none fits."""
        try:
            await self._replace()
        except ServeProblem as problem:
            self._refuse_unfit(problem)
        except Exception:
            logger.exception("the model server of %s", self.base_key)
            self._refuse_unfit(FAULT)
        finally:
            self.loading = None
            self.takes_bytes = 0

        self.step()

    async def _replace(self) -> None:
        while self._must_wait():
            await asyncio.sleep(0.05)

        lease = self._first_unfit()
        if lease is None:
            return

        wanted = lease.files
        order = ChildOrder(
            files=wanted,
            adapters=self.adapters.beside(wanted, [lease.files for lease in self.line]),
            threads=self.host.threads,
            is_beside_a_train=self.host.is_beside_a_train,
            visible_devices=self.host.visible_devices,
        )
        if not self._shares_weights:
            await self._end_present()

        if not await self._has_room(order):
            return

        if (child := await self._started(order, lease)) is not None:
            self._take_over(child)

    async def _started(self, order: ChildOrder, lease: Lease) -> Child | None:
        """A child that serves `lease`, with as many adapters of `order` as it loads with. None
        where that adapter cannot be loaded; who waits for it hears why. Raises ServeProblem."""
        problem = None
        for adapters in self.adapters.tries(order.adapters, lease.key):
            child = await self._start(replace(order, adapters=adapters))
            if isinstance(child, Child):
                self.adapters.have_loaded(adapters, after_failure=problem is not None)
                return child

            problem = child
            logger.warning("%s does not load with %s: %s", self.base_key, [*adapters], problem)

        assert problem is not None
        self._failed(lease, problem)
        return None

    async def _start(self, order: ChildOrder) -> Child | ServeProblem:
        """A child that answers, or why it could not be loaded. Raises ServeProblem where a train
        has the device."""
        locks = self.host.device_locks()
        child = Child(self.base_key, order, self.child_died)
        self.coming = child
        try:
            await child.start(locks)
        except ServeProblem as problem:
            return problem
        finally:
            self.coming = None
            for lock in locks:
                os.close(lock)

        return child

    def _failed(self, lease: Lease, problem: ServeProblem) -> None:
        """It cannot be loaded. Raises `problem` where that is the base itself."""
        if not lease.key:
            self._died(problem.message)
            raise problem

        self.adapters.has_failed(lease.files, problem)
        self.line.refuse(problem, lambda other: other.key == lease.key)

    async def _has_room(self, order: ChildOrder) -> bool:
        """Whether there is memory for another child, after waiting for it. Raises ServeProblem
        where there never will be."""
        if any(child.order.files.base_mark == order.files.base_mark for child in self.current):
            # It shares the weights of those.
            if memory_available() >= SPARE_BYTES:
                return True

            self.no_spare_until = time.monotonic() + SPARE_AGAIN_SECONDS
            lease = self._first_unfit()
            if lease is None:
                return False

            # It comes in the place of those, once they have answered.
            lease.tell(phase="waiting", words=NO_ROOM, position=1)
            await self._wait_for_answers()
            await self._end_present()

        while (words := await self.host.make_room(self, _memory_needed(order))) != "":
            for lease in self.line:
                lease.tell(phase="waiting", words=words, position=1)
            if not self.line:
                return False

            await asyncio.sleep(0.2)

        return True

    async def _wait_for_answers(self) -> None:
        """Until the present children have finished; they begin nothing meanwhile."""
        self.is_held_back = True
        try:
            while any(child.leases for child in self.current):
                await asyncio.sleep(0.05)
        finally:
            self.is_held_back = False

    # Batches make room for people

    def may_be_unloaded(self, is_urgent: bool) -> bool:
        """is_urgent: for people, for whom those who wait here in the background wait longer."""
        is_wanted = self.line.has_people if is_urgent else bool(self.line)
        is_used = is_wanted or self.lease_count > 0 or self.loading is not None
        return bool(self.current) and not is_used

    def _must_wait(self) -> bool:
        if len(self.leaving) >= MOST_LEAVING:
            return True
        if not self._shares_weights:
            return any(child.leases for child in self.current)

        # The one that was asked longest ago makes room.
        if len(self.current) >= MOST_CHILDREN:
            idle = [child for child in self.current if not child.leases]
            if not idle:
                return True

            self._retire(min(idle, key=lambda child: child.used_at))

        return False

    def _first_unfit(self) -> Lease | None:
        """The first in line for whom there is no child, or none that is not busy with others."""
        for lease in self.line:
            if self.line.holds(lease):
                continue

            fitting = [child for child in self.current if self._fits(child, lease.files)]
            if not fitting or self._may_add(lease, fitting):
                return lease

        return None

    def _retire(self, child: Child) -> None:
        """It takes nobody any more, and ends with its last answer."""
        self.current.remove(child)
        self.leaving.add(child)
        self._end_left()

    def _take_over(self, child: Child) -> None:
        self.current.append(child)
        for other in list(self.current):
            if not self._is_up_to_date(other) and other is not child:
                self._retire(other)

        self.load_seconds = child.load_seconds
        logger.info(
            "%s is served by %s in %.1f s, %d adapters, %s threads",
            self.base_key,
            child.order.files.reason or self.backend,
            child.load_seconds,
            len(child.order.adapters),
            child.order.threads or "all",
        )

        if self.closed is not None:
            background(self.end(self.closed))

    # Ending

    def child_died(self, child: Child) -> None:
        self.leaving.discard(child)
        if child in self.current:
            self.current.remove(child)

        self._died(child.last_words())
        problem = ServeProblem(
            "The model server ended in the middle of the answer. Ask again.", code="server_lost"
        )
        _lose(child, problem)
        try:
            self._deaths_check()
        except ServeProblem as too_often:
            self.line.refuse(too_often)
        else:
            self.step()

        self.host.changed()

    def _died(self, words: str) -> None:
        self.deaths.append(time.monotonic())
        self.last_words = words

    def _refuse_unfit(self, problem: ServeProblem) -> None:
        """Those whom no child answers."""

        def is_unfit(lease: Lease) -> bool:
            return not any(self._fits(child, lease.files) for child in self.current)

        self.line.refuse(problem, is_unfit)

    def forget(self, adapter_key: str, problem: ServeProblem) -> None:
        """That adapter is answered with no more."""
        self.adapters.forget(adapter_key)
        self.line.refuse(problem, lambda lease: lease.key == adapter_key)

        for child in self.children:
            for lease in child.leases:
                if lease.key == adapter_key:
                    lease.refuse(problem, phase="lost")

    async def _end_present(self) -> None:
        ended, self.current = self.current, []
        await asyncio.gather(*(child.end() for child in ended))

    def spare_end(self) -> None:
        """End children beside the newest that nobody has needed for a while."""
        now = time.monotonic()
        for child in self.current[:-1]:
            if not child.leases and now - child.used_at > SPARE_SECONDS:
                self._retire(child)

    @property
    def children(self) -> list[Child]:
        return [*self.current, *self.leaving]

    @property
    def adapter_keys(self) -> set[str]:
        """Of all that are loaded, waited for or were asked for lately."""
        loaded = {key for child in self.children for key in child.order.adapters}
        return {*self.adapters.recent, *loaded, *(lease.key for lease in self.line)} - {""}

    @property
    def lease_count(self) -> int:
        return sum(len(child.leases) for child in self.children)

    @property
    def is_answering(self) -> bool:
        """Whether people are being answered, or wait for it."""
        granted = (lease for child in self.children for lease in child.leases)
        return any(lease.is_persons_answer for lease in (*self.line, *granted))

    @property
    def is_idle(self) -> bool:
        return not self.line and not self.lease_count and self.loading is None

    @property
    def is_shown(self) -> bool:
        return bool(self.children or self.line or self.coming)

    def state(self) -> dict[str, Any]:
        """For the operator's page, as JSON."""
        newest = self.child or self.coming
        order = newest.order if newest is not None else None
        files = order.files if order is not None else None

        return {
            "base_key": self.base_key,
            "backend": self.backend,
            "reason": files.reason if files is not None else "",
            "note": files.note if files is not None else "",
            "phase": "ready" if self.child is not None else "loading",
            "adapters": list(order.adapters) if order is not None else [],
            "threads": order.threads if order is not None else 0,
            "parallel": sum(child.parallel for child in self.current),
            "context": self.child.ready["context"] if self.child is not None else 0,
            "servers": len(self.children),
            "pids": [child.pid for child in self.children],
            "memory_bytes": _memory_taken(self.children),
            "answering": self.lease_count,
            "waiting": len(self.line),
            "load_seconds": self.load_seconds,
            "idle_seconds": time.monotonic() - self.used_at if self.is_idle else 0,
        }

    async def unload(self, *, with_background: bool = False) -> None:
        """End what is loaded, if nobody needs it. with_background: also where somebody waits in the
        background, who waits on."""
        if not self.may_be_unloaded(with_background):
            return

        if self.line:
            self.line.hold_background()

        await self._end_present()

    async def end(self, problem: ServeProblem) -> None:
        """End everything now; those who are being answered and those who wait hear why."""
        self.line.refuse(problem)
        children, self.current = self.children, []
        self.leaving.clear()
        for child in children:
            _lose(child, problem)

        endings = [child.end() for child in children]
        if self.loading is not None:
            self.loading.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self.loading
            self.loading = None

        await asyncio.gather(*endings)


def _note(files: Files, child: Child) -> str:
    notes = (files.note, BESIDE_A_TRAIN if child.order.is_beside_a_train else "")
    return " ".join(filter(None, notes))


def _answers_only(child: Child, key: str) -> bool:
    """Whether all that it answers now is that adapter's."""
    return all(lease.key == key for lease in child.answering)


def _lose(child: Child, problem: ServeProblem) -> None:
    for lease in list(child.leases):
        lease.refuse(problem, phase="lost")


def _memory_taken(children: Sequence[Child]) -> int:
    """Bytes. The weights are mapped, so that the servers of one base have them once."""
    taken = [child.memory for child in children]
    return sum(each.own for each in taken) + max((each.mapped for each in taken), default=0)


def _memory_needed(order: ChildOrder) -> int:
    """Bytes that it takes of memory, about: weights, and what it computes with."""
    from engine.serving.order import LLAMA_CPP

    size = order.files.size_bytes
    if order.files.backend == LLAMA_CPP:
        return int(size * 1.1) + 300 * 2**20

    return int(size * 1.3) + 800 * 2**20
