"""The gateway: who may have an answer of which model now, and the model servers that give it.

It is not on the path of the words. It hands out leases: where a model server listens, with the key
and the fields that a request to it must have. Whoever has one asks that server, and holds the lease
until the answer is there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from core.memory import memory_available
from jobs.devices.sharing import shared_sides
from serving.gateway.child import background, background_end
from serving.gateway.cleanup import leftovers_remove, mark_used
from serving.gateway.facts import Facts, FactsReader, answers_tell, keys_gone
from serving.gateway.line import Event, Lease
from serving.gateway.model_server import ModelServer
from serving.gateway.prepared import Preparations, serving_folder
from serving.gateway.problems import FAULT, ServeProblem
from serving.targets import Placement

TICK_SECONDS = 1.0
# Rows that were archived or deleted are looked for less often: each request is checked by itself.
LOOK_SECONDS = 5.0
CLEAN_SECONDS = 3600.0
# Facts are as old as this at most when somebody asks.
FRESH_SECONDS = 1.5
# What an answer gets to come to its end when a train takes the device.
GRACE_SECONDS = 20.0

ENDS = ServeProblem("The platform is restarting. Ask again in a minute.", code="server_lost")
MOVED = "A train has taken the device of this model, which is loaded on another one. Ask again."
NOT_LOADED = ServeProblem("This model is not loaded now.", code="not_loaded", status=409)

logger = logging.getLogger("deepextension.gateway")


class Gateway:
    """read_facts, find_gone, tell_answers: those of serving.gateway.facts, which ask the
    database."""

    def __init__(
        self,
        *,
        read_facts: Callable[[], Facts] | None = None,
        find_gone: Callable[[Iterable[str]], dict[str, str]] = keys_gone,
        tell_answers: Callable[[Facts, bool, bool], None] = answers_tell,
        clean: Callable[[set[str]], None] = leftovers_remove,
    ) -> None:
        self.read_facts = read_facts or FactsReader()
        self.find_gone = find_gone
        self.tell_answers = tell_answers
        self.clean = clean
        self.servers: dict[tuple[str, str], ModelServer] = {}
        self.preparations = Preparations(serving_folder(), self._differs)
        self.facts = Facts()
        self.facts_at = 0.0
        self.refused_since: float | None = None
        self.threads_of_facts = ThreadPoolExecutor(2, "facts")
        self.warming: dict[Placement, asyncio.Task[None]] = {}
        self.ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._facts_refresh()
        self.ticking = asyncio.create_task(self._tick_on())

    async def close(self) -> None:
        for task in (self.ticking, *self.warming.values()):
            if task is not None:
                task.cancel()

        self.preparations.close()
        await asyncio.gather(*(server.end(ENDS) for server in self.servers.values()))
        await background_end()
        await self._in_thread(self.tell_answers, self.facts, False, False)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads_of_facts, function, *arguments)

    # Leases

    async def lease(
        self,
        placement: Placement,
        *,
        load: bool = True,
        background: bool = False,
        answers: bool = True,
    ) -> AsyncGenerator[Event, None]:
        """What happens until somebody may ask the model server of `placement`, then "ready", and
        "lost" where that ends before they have left. Closing it gives the lease back.

        load: whether the model is loaded for it. background: whether all others pass. answers:
        whether trains wait for it where answers go first."""
        try:
            if time.monotonic() - self.facts_at > FRESH_SECONDS:
                await self._facts_refresh()

            self._refusal_check()
            if not load and not await self.loaded_context(placement):
                raise NOT_LOADED

            server, lease = None, None
            async for event in self._prepared(placement, background, answers):
                if isinstance(event, dict):
                    yield event
                else:
                    server, lease = event
        except ServeProblem as problem:
            yield _refused(problem)
            return
        except Exception:
            logger.exception("a lease of %s", placement.base_key)
            yield _refused(FAULT)
            return

        assert server is not None
        assert lease is not None
        try:
            while True:
                event = await lease.events.get()
                yield event
                if event["phase"] in ("lost", "refused"):
                    return
        finally:
            server.leave(lease)

    async def _prepared(
        self, placement: Placement, background: bool, answers: bool
    ) -> AsyncGenerator[Event | tuple[ModelServer, Lease], None]:
        """Events until the files of `placement` are there, then its server and a place in line.
        Raises ServeProblem."""
        news: asyncio.Queue[Event] = asyncio.Queue()

        def tell(words: str, progress: float | None) -> None:
            news.put_nowait({"phase": "preparing", "words": words, "progress": progress})

        asking = asyncio.create_task(self.preparations.files(placement, tell))
        try:
            while not asking.done():
                getting = asyncio.create_task(news.get())
                await asyncio.wait({asking, getting}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
                else:
                    getting.cancel()

            files = asking.result()
        except asyncio.CancelledError:
            asking.cancel()
            raise

        # A train may have started meanwhile.
        self._refusal_check()
        mark_used(placement)
        key = (placement.base_key, files.backend)
        server = self.servers.get(key)
        if server is None or server.closed is not None:
            server = self.servers[key] = ModelServer(*key, self)

        yield server, server.ask(placement, files, background=background, answers=answers)

    async def loaded_context(self, placement: Placement) -> int:
        """Tokens of one conversation of what has it loaded now; 0 where nothing has."""
        try:
            files = await self.preparations.known_files(placement)
        except ServeProblem:
            return 0

        server = None
        if files is not None:
            server = self.servers.get((placement.base_key, files.backend))
        if server is None or files is None:
            return 0

        return server.context_of(files)

    def _refusal_check(self) -> None:
        if words := self.facts.refusal:
            raise ServeProblem(words, code="device_busy")

    def warm(self, placement: Placement) -> None:
        """Load that model, since a question is likely."""
        if placement not in self.warming:
            task = asyncio.create_task(self._warm(placement))
            self.warming[placement] = task
            task.add_done_callback(lambda _: self.warming.pop(placement, None))

    async def _warm(self, placement: Placement) -> None:
        async with aclosing(self.lease(placement, answers=False)) as events:
            async for event in events:
                if event["phase"] == "ready":
                    return

    async def unload(self, base_key: str) -> bool:
        """End what serves that base now. Returns whether something was loaded."""
        words = "An operator has unloaded this model. Ask again to load it."
        problem = ServeProblem(words, code="server_lost")
        ended = False
        for server in list(self.servers.values()):
            if server.base_key == base_key and (server.children or not server.is_idle):
                await server.end(problem)
                ended = True

        return ended

    def _differs(self, placement: Placement, why: str) -> None:
        """llama.cpp answers otherwise than the trained model: it answers no more."""
        from engine.serving.order import TRANSFORMERS

        problem = ServeProblem(f"{why} Ask again.", code="server_lost")
        for server in list(self.servers.values()):
            if server.base_key != placement.base_key or server.backend == TRANSFORMERS:
                continue
            if placement.adapter_key:
                server.forget(placement.adapter_key, problem)
            else:
                background(server.end(problem))

    # What model servers ask of their house

    @property
    def threads(self) -> int:
        """1 beside a train on the same processors: with two, both would wait for each other all
        the time."""
        return 1 if self.is_beside_a_train else 0

    @property
    def is_beside_a_train(self) -> bool:
        return bool(self.facts.train)

    @property
    def visible_devices(self) -> str:
        return self.facts.spot.visible

    def device_locks(self) -> list[int]:
        """Descriptors of the device's shared side. Raises ServeProblem while a train has it for
        itself."""
        sides = shared_sides(*self.facts.spot.identities)
        if sides is None:
            raise ServeProblem(
                "A train has the device of this platform. Models answer again when it has ended.",
                code="device_busy",
            )

        return sides

    async def make_room(self, server: ModelServer, needed_bytes: int) -> str:
        """Unload models that nobody needs, those asked longest ago first, until another one has
        room. Returns what it waits for, "" once there is room. Raises ServeProblem where there
        never will be."""
        while True:
            others = [
                other
                for other in self.servers.values()
                if other is not server and (other.children or other.takes_bytes)
            ]
            on_gpu = [other for other in others if self._shares_gpu(server, other)]
            is_full = len(others) >= self.facts.models_at_once
            # What is being loaded has not taken its memory yet.
            available = memory_available() - sum(other.takes_bytes for other in others)
            if not is_full and not on_gpu and available >= needed_bytes:
                # At once, before anybody else can be told of the same place.
                server.takes_bytes = needed_bytes
                return ""

            is_urgent = server.line.has_people
            idle = sorted(
                (other for other in on_gpu or others if other.may_be_unloaded(is_urgent)),
                key=lambda other: other.used_at,
            )
            if idle:
                await idle[0].unload(with_background=is_urgent)
            elif others:
                if is_urgent:
                    for other in on_gpu or others:
                        other.line.hold_background()

                return "Waiting for a free slot: other models are answering"
            else:
                raise ServeProblem(
                    f"This model needs {needed_bytes / 1e9:.1f} GB of memory, and "
                    f"{available / 1e9:.1f} GB are free. Ask again when the machine is less busy.",
                    code="no_memory",
                )

    def _shares_gpu(self, server: ModelServer, other: ModelServer) -> bool:
        """Whether both would take memory of the GPU, which nobody measures: one at a time then."""
        from engine.serving.order import LLAMA_CPP

        return self.facts.device_kind != "cpu" and LLAMA_CPP not in (server.backend, other.backend)

    def changed(self) -> None:
        """A lease was given back: a place may be free."""

    # Upkeep

    async def _tick_on(self) -> None:
        looked_at = cleaned_at = 0.0
        while True:
            try:
                await self._facts_refresh()
                await self._obey_rule()
                await self._unload_idle()
                now = time.monotonic()
                if now - looked_at >= LOOK_SECONDS:
                    looked_at = now
                    await self._end_gone()
                if now - cleaned_at >= CLEAN_SECONDS:
                    cleaned_at = now
                    await self._in_thread(self.clean, self._loaded_keys())
            except Exception:
                # Whatever it was: models still answer, and the next round may succeed.
                logger.exception("housekeeping of the gateway")

            await asyncio.sleep(TICK_SECONDS)

    async def _facts_refresh(self) -> None:
        try:
            facts: Facts = await self._in_thread(self.read_facts)
            is_loaded = any(server.children or server.coming for server in self.servers.values())
            self.facts = facts.after(self.facts, is_loaded=is_loaded)
        except Exception as error:
            logger.warning("the database is not available, models answer as before: %s", error)

        self.facts_at = time.monotonic()
        self.preparations.is_beside_a_train = self.is_beside_a_train

    async def _obey_rule(self) -> None:
        """Leave the device to trains where the rule says so."""
        loaded = [server for server in self.servers.values() if server.children or server.coming]
        now = time.monotonic()
        since = now - self.facts.idle_seconds
        is_asked = any(server.is_answering or server.answered_at > since for server in loaded)
        await self._in_thread(self.tell_answers, self.facts, is_asked, bool(loaded))

        refusal = self.facts.refusal
        leaving = [server for server in loaded if refusal or server.is_elsewhere]
        if not leaving:
            self.refused_since = None
            return

        if self.refused_since is None:
            self.refused_since = now

        is_over = now - self.refused_since > GRACE_SECONDS
        problem = ServeProblem(refusal or MOVED, code="device_busy")
        for server in leaving:
            if not server.lease_count or is_over:
                await server.end(problem)
            elif refusal:
                server.line.refuse(problem)

    async def _unload_idle(self) -> None:
        now = time.monotonic()
        for key, server in list(self.servers.items()):
            server.spare_end()
            server.step()
            if server.is_idle and now - server.used_at > self.facts.idle_seconds:
                if server.child is not None:
                    logger.info("%s was not asked for a while and is unloaded", server.base_key)
                await server.unload()
                if server.is_idle and self.servers.get(key) is server:
                    del self.servers[key]

    async def _end_gone(self) -> None:
        """End what has been archived or deleted."""
        gone: dict[str, str] = await self._in_thread(self.find_gone, self._loaded_keys())
        for (base_key, backend), server in list(self.servers.items()):
            if base_key in gone:
                server.closed = ServeProblem(gone[base_key], code="cannot_answer", status=409)
                await server.end(server.closed)
                self.servers.pop((base_key, backend), None)
                continue

            for key in gone.keys() & server.adapter_keys:
                problem = ServeProblem(gone[key], code="cannot_answer", status=409)
                server.forget(key, problem)

    def _loaded_keys(self) -> set[str]:
        keys = {key for pair in self.preparations.running for key in pair if key}
        for server in self.servers.values():
            keys |= {server.base_key} | server.adapter_keys

        return keys

    # For people

    def state(self) -> dict[str, Any]:
        """What is loaded, waits and is prepared, as JSON."""
        return {
            "rule": self.facts.rule,
            "device": {"kind": self.facts.device_kind, "name": self.facts.spot.name},
            "train": self.facts.train,
            "refusal": self.facts.refusal,
            "models": [server.state() for server in self.servers.values() if server.is_shown],
            "preparing": [
                {
                    "base_key": base_key,
                    "adapter_key": adapter_key,
                    "words": preparation.words,
                    "progress": preparation.progress,
                }
                for (base_key, adapter_key), preparation in self.preparations.running.items()
            ],
        }


def _refused(problem: ServeProblem) -> Event:
    return {
        "phase": "refused",
        "message": problem.message,
        "code": problem.code,
        "status": problem.status,
    }
