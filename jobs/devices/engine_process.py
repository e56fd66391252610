"""The engine as a process: forked from a warm process that knows nothing of the platform
(engine.process.forkserver).

Forking costs no import time, since the warm process has imported torch already. Worker and
supervisor hold database, queue and settings; the engine, which may run people's own reward
functions and programs, inherits none of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings

from core.memory import Death, MemoryWatch
from core.processes import clean_environment, confined, judge_environment
from engine.contract.rundir import SpecError, read_spec
from engine.process.forkserver import ASK, READY
from engine.rewards.registry import uses_judge

LONGEST_STATUS = 64
FORKSERVER = (sys.executable, "-m", "engine.process.forkserver")


class ForkServerGone(Exception):
    """The warm process is not there, or did not start."""


class WarmProcess:
    """The fork server, as the worker that started it and the worker's forks see it.

    It ends when the last of them has closed `control`, which the kernel does for those that were
    killed."""

    def __init__(
        self, control: socket.socket, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.control = control
        self.process = process
        self.owner = os.getpid()
        # The worker's own lock, once it has it: its engines hold it too.
        self.lock = os.open(os.devnull, os.O_RDONLY)

    @classmethod
    def start(cls, *, is_light: bool = False) -> WarmProcess:
        """Start it and wait until it has imported everything. Raises ForkServerGone where it ends
        before. is_light: it imports nothing, for engines that compute elsewhere."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [*FORKSERVER, str(theirs.fileno()), *(["--light"] if is_light else [])],
                cwd=settings.BASE_DIR,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Not with its parent: it ends with the last supervisor, who may still be saving a
                # train.
                preexec_fn=confined(with_parent=False),
            )

        if ours.recv(16) != READY:
            raise ForkServerGone(
                "The process that trains are forked from ended while it started; see this log."
            )

        return cls(ours, process)

    def is_alive(self) -> bool:
        """Only the process that started it can tell; others find out when they ask for an
        engine."""
        return self.process is None or self.owner != os.getpid() or self.process.poll() is None

    def fork_engine(
        self, directory: Path, environment: dict[str, str], locks: Sequence[int] = ()
    ) -> socket.socket:
        """Have an engine forked, which holds `locks` too, and return the socket to it. Raises OSError
        where the server is gone."""
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()

        try:
            order = {"directory": str(directory), "environment": environment}
            with os.fdopen(writing, "w") as stream:
                json.dump(order, stream)

            descriptors = [theirs.fileno(), reading, self.lock, *locks]
            socket.send_fds(self.control, [ASK], descriptors)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(reading)

        return ours


class Engine:
    """A running engine: start it, ask whether it has ended, signal it."""

    # The worker's own; its forks inherit it.
    warm: WarmProcess | None = None
    # For a worker whose trains are computed on a cluster.
    is_light = False

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.channel.setblocking(False)
        self.status: int | None = None
        # The beginning of a message whose end has not arrived.
        self.received = b""
        self.memory = MemoryWatch(os.getpid())
        self.death: Death | None = None
        # Whether the fork server was killed, and the kernel ended the engine with it.
        self.was_lost = False

    @classmethod
    def warm_up(cls) -> WarmProcess:
        """The warm process, started where there is none or it has ended."""
        if cls.warm is None or not cls.warm.is_alive():
            cls.warm = cls._replacement()

        return cls.warm

    @classmethod
    def _replacement(cls) -> WarmProcess:
        replacement = WarmProcess.start(is_light=cls.is_light)
        if cls.warm is not None:
            replacement.lock = cls.warm.lock

        return replacement

    @classmethod
    def start(
        cls,
        directory: Path,
        environment: dict[str, str] | None = None,
        locks: Sequence[int] = (),
    ) -> Engine:
        """environment: more variables than those that every engine has. locks: descriptors that it
        inherits."""
        environment = _environment(directory) | (environment or {})
        try:
            channel = cls.warm_up().fork_engine(directory, environment, locks)
        except OSError:
            # The warm process was killed since this worker looked.
            cls.warm = cls._replacement()
            channel = cls.warm.fork_engine(directory, environment, locks)

        return cls(channel)

    def poll(self) -> int | None:
        """The exit status once it has ended (negative: the signal that killed it), None while it
        runs."""
        if self.status is not None:
            return self.status

        try:
            piece = self.channel.recv(LONGEST_STATUS)
        except BlockingIOError:
            return None
        except OSError:
            piece = b""

        if not piece:
            self.was_lost = True
            self.status = -signal.SIGKILL
            return self.status

        *messages, self.received = (self.received + piece).split(b"\n")
        for message in messages:
            self.receive(json.loads(message))

        return self.status

    def receive(self, message: dict[str, int]) -> None:
        """What the fork server reports of the engine; see engine.process.forkserver."""
        if "pid" in message:
            # Its memory may be limited apart from this process's.
            self.memory = MemoryWatch(message["pid"])
        else:
            self.death = self.memory.death(message["peak"])
            self.status = message["status"]

    def signal(self, sign: signal.Signals) -> None:
        if self.status is not None:
            return

        # Where it has ended in this moment, poll() finds that out.
        with contextlib.suppress(OSError):
            self.channel.send(bytes([sign]))


def _environment(directory: Path) -> dict[str, str]:
    """What this engine gets in addition to the clean environment: the judge's key, where a judge
    scores answers."""
    try:
        parameters = read_spec(directory).parameters
    except SpecError:
        return {}

    if uses_judge(parameters.get("rewards")):
        return judge_environment()

    return {}
