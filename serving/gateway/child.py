"""A model server as a process: `python -m engine.serving`, started, watched and ended."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from django.conf import settings

from core.devices import VISIBLE
from core.processes import clean_environment, confined
from serving.gateway.prepared import Files
from serving.gateway.problems import ServeProblem

# How long one may take to end by itself.
END_SECONDS = 5
HEALTH_EVERY = 5.0
# A server that says nothing for so long while somebody waits for it hangs. Beside a train it may have
# so little of a processor that it needs longer, as long as it has some.
STUCK_SECONDS = 20.0
STARVED_SECONDS = 120.0
# From its start to its first answer; the largest model from a slow disk.
LOAD_SECONDS = 1800
# One that neither computes nor reads while it loads hangs.
STILL_SECONDS = 60.0
STILL_EVERY = 1.0
LOG_LINES = 3
LONGEST_LINE = 1 << 22

logger = logging.getLogger("deepextension.gateway")

_numbers = itertools.count(1)


class Memory(NamedTuple):
    """Bytes. own: of one process alone. mapped: of files, which those that map the same ones
    share."""

    own: int
    mapped: int


@dataclass(frozen=True)
class ChildOrder:
    """What one is started with. adapters: {key: files}. threads: 0 for all.
    is_beside_a_train: it computes only while that wants no processor. visible_devices:
    CUDA_VISIBLE_DEVICES, "" for all."""

    files: Files
    adapters: dict[str, Files] = field(default_factory=dict)
    threads: int = 0
    is_beside_a_train: bool = False
    parallel: int = 4
    visible_devices: str = ""

    def serves(self, files: Files) -> bool:
        """Whether it has those very weights, and that adapter as it is now."""
        if files.backend != self.files.backend or files.base_mark != self.files.base_mark:
            return False
        if not files.adapter_key:
            return True

        own = self.adapters.get(files.adapter_key)
        return own is not None and own.adapter_mark == files.adapter_mark

    def to_json(self) -> dict[str, Any]:
        """An engine.serving.order.ServeOrder."""
        return {
            "backend": self.files.backend,
            "base": self.files.base,
            "adapters": [
                {"key": key, "path": files.adapter} for key, files in self.adapters.items()
            ],
            "parallel": self.parallel,
            "threads": self.threads,
            "idle_priority": self.is_beside_a_train,
        }


class Child:
    """One model server. `ready`: an engine.serving.order.Ready once it answers. leases: who has
    it now."""

    def __init__(self, name: str, order: ChildOrder, on_death: Callable[[Child], None]) -> None:
        self.name = name
        self.order = order
        self.on_death = on_death
        self.number = next(_numbers)
        self.process: asyncio.subprocess.Process | None = None
        self.ready: dict[str, Any] = {}
        self.leases: set[Any] = set()
        self.phase = ""
        self.load_seconds = 0.0
        self.is_ending = False
        self.used_at = time.monotonic()
        self.log = settings.HOME / "logs" / f"serving-{name}.log"
        self.log_before = self.log.with_suffix(".before.log")
        self.log_inode = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def answering(self) -> list[Any]:
        """The leases of those who are being answered; others only count tokens."""
        return [lease for lease in self.leases if lease.answers]

    @property
    def parallel(self) -> int:
        """How many it answers at once."""
        return int(self.ready.get("parallel", 0)) or self.order.parallel

    async def start(self, locks: list[int]) -> None:
        """Start it and wait until it answers. locks: descriptors that it inherits. Raises
        ServeProblem with what it says."""
        began = time.monotonic()
        self.log.parent.mkdir(exist_ok=True, mode=0o700)
        # Another child of this model may still write into the one that it began.
        with suppress(FileNotFoundError):
            self.log.rename(self.log_before)
        with self.log.open("wb") as errors:
            self.log_inode = os.fstat(errors.fileno()).st_ino
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "engine.serving",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=settings.BASE_DIR,
                env=self._environment(),
                pass_fds=locks,
                preexec_fn=confined(),
                limit=LONGEST_LINE,
            )

        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(self.order.to_json()).encode() + b"\n")
            async with asyncio.timeout(LOAD_SECONDS) as limit:
                watching = asyncio.create_task(self._watch_loading(limit))
                try:
                    await self._read_until_ready()
                finally:
                    watching.cancel()
        except BaseException as error:
            await self.end()
            if isinstance(error, TimeoutError | OSError):
                raise ServeProblem(self._why("did not start"), code="not_loaded") from error
            raise

        self.load_seconds = time.monotonic() - began
        self.used_at = time.monotonic()
        self.tasks = [
            asyncio.create_task(self._wait_for_its_end()),
            asyncio.create_task(self._watch_health()),
        ]

    def _environment(self) -> dict[str, str]:
        visible = self.order.visible_devices
        return clean_environment(**({VISIBLE: visible} if visible else {}))

    async def _read_until_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None

        async for line in self.process.stdout:
            try:
                news = json.loads(line)
            except ValueError:
                continue
            if not isinstance(news, dict):
                continue

            if "ready" in news:
                self.ready = news["ready"]
                return
            if "error" in news:
                raise ServeProblem(str(news["error"]), code="not_loaded")

            self.phase = str(news.get("phase", self.phase))

        raise ServeProblem(self._why("ended while it loaded the model"), code="not_loaded")

    async def _watch_loading(self, limit: asyncio.Timeout) -> None:
        """Reach the time limit early where it does nothing any more."""
        loop = asyncio.get_running_loop()
        seen, since = work_done(self.pid), loop.time()
        while True:
            await asyncio.sleep(STILL_EVERY)
            done = work_done(self.pid)
            if done != seen:
                seen, since = done, loop.time()
            elif loop.time() - since > STILL_SECONDS:
                logger.warning("the model server of %s hangs while it loads", self.name)
                limit.reschedule(loop.time())
                return

    def _why(self, what: str) -> str:
        words = self.last_words()
        return f"The model server {what}{': ' + words if words else ''}."

    def last_words(self) -> str:
        """The end of its own log, "" where that is gone."""
        lines: list[str] = []
        for log in (self.log, self.log_before):
            with suppress(OSError), log.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino == self.log_inode:
                    stream.seek(max(0, status.st_size - 4000))
                    lines = stream.read().decode("utf-8", "replace").splitlines()

        said = [line.strip() for line in lines if line.strip()]
        return " ".join(said[-LOG_LINES:])[-400:].rstrip(".")

    async def _wait_for_its_end(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None

        # What it still prints must not fill the pipe.
        while await self.process.stdout.read(65536):
            pass

        code = await self.process.wait()
        _pipes_close(self.process)
        if not self.is_ending:
            self.is_ending = True
            logger.warning("the model server of %s ended with %s", self.name, code)
            self.on_death(self)

    async def _watch_health(self) -> None:
        """End it when it says nothing while somebody waits for it."""
        timeout = aiohttp.ClientTimeout(total=STUCK_SECONDS)
        heard_at = time.monotonic()
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while not self.is_ending:
                await asyncio.sleep(HEALTH_EVERY)
                done = work_done(self.pid)
                if not self.leases or await self._answers(session):
                    heard_at = time.monotonic()
                    continue

                is_starved = self.order.is_beside_a_train and work_done(self.pid) != done
                if is_starved and time.monotonic() - heard_at < STARVED_SECONDS:
                    continue

                logger.warning("the model server of %s hangs and is ended", self.name)
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                return

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        headers = {"Authorization": f"Bearer {self.ready['key']}"}
        try:
            async with session.get(f"{self.ready['url']}/health", headers=headers):
                return True
        except TimeoutError:
            return False
        except aiohttp.ClientError:
            # It has ended, which another task sees, or has closed a connection.
            return True

    def end(self) -> asyncio.Future[None]:
        """End it, whatever it does, and even where nobody waits for that any more."""
        if self.ending is None:
            self.ending = background(self._end())

        return asyncio.shield(self.ending)

    async def _end(self) -> None:
        self.is_ending = True
        for task in self.tasks:
            task.cancel()

        process = self.process
        if process is None:
            return

        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is not None:
            _pipes_close(process)
            return

        try:
            async with asyncio.timeout(END_SECONDS if not self.leases else 0.2):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

        # Its pipes are closed when their end has been read.
        if process.stdout is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await process.stdout.read()

        _pipes_close(process)

    @property
    def memory(self) -> Memory:
        """What it takes now; nothing where it has ended."""
        try:
            resident, shared = map(int, Path(f"/proc/{self.pid}/statm").read_text().split()[1:3])
        except (OSError, ValueError):
            return Memory(0, 0)

        page = os.sysconf("SC_PAGE_SIZE")
        return Memory(own=(resident - shared) * page, mapped=shared * page)


def _pipes_close(process: asyncio.subprocess.Process) -> None:
    """At once: asyncio itself waits for a loop that may end before."""
    transport: asyncio.SubprocessTransport = process._transport  # type: ignore[attr-defined]
    transport.close()


_tasks: set[asyncio.Task[Any]] = set()


def background(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """What goes on until background_end at least."""
    task = asyncio.create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


async def background_end() -> None:
    """Wait for what is being ended."""
    while _tasks:
        await asyncio.gather(*_tasks, return_exceptions=True)


def work_done(pid: int) -> tuple[str, ...]:
    """What changes while a process computes or reads: page faults, and time of the processor. ()
    where nothing is known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ()

    # Fields 10, 12, 14 and 15 of man 5 proc_pid_stat; the split begins at the third.
    return fields[7], fields[9], fields[11], fields[12]
