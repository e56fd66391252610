"""The worker of background work: one chore at a time, each in a process of its own.

The worker itself runs nothing of a chore. It watches the process: ends it when its time is over or
when it was cancelled, and gives the chore back where the process broke off. Whatever the process
started belongs to its process group and ends with it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import time
from importlib import import_module
from types import FrameType

from django.db import InterfaceError, OperationalError, close_old_connections, connections
from django.utils import timezone
from redis.client import PubSub
from redis.exceptions import RedisError

from core.chores import (
    CANCELLED,
    CHANNEL,
    LANE_LIMITS,
    SLOW,
    STOPPING,
    TOO_LONG,
    Status,
    chore_claim,
    chore_ended,
    chore_failed,
    chore_give_back,
    chore_move_on,
    function_of,
    kind_of,
    kinds,
)
from core.models import Chore
from core.processes import process_mark
from core.queue import connection
from engine.process.isolation import die_with_parent

# What a database raises that is locked, restarted or out of reach.
AWAY = (OperationalError, InterfaceError)
LOOK_SECONDS = 2.0
HEARTBEAT_SECONDS = 1.0
TICK_SECONDS = 0.02
# Less than a pipe holds, so that writing it never waits.
ERROR_BYTES = 2000

logger = logging.getLogger("deepextension.chores")


class ChoresWorker:
    """lane: a core.models.Chore.Lane, what this worker does first."""

    def __init__(self, lane: int) -> None:
        self.lane = lane
        self.host = socket.gethostname()
        self.mark = process_mark(os.getpid())
        self.is_stopping = False
        self.wakeups: PubSub | None = None

    def work(self) -> None:
        """Until SIGTERM or SIGINT, which gives back what is being done."""
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self.stop)

        # What all chores need is imported once, before the forks.
        for kind in kinds():
            function_of(kind.run)
            for module in kind.needs:
                import_module(module)

        while not self.is_stopping:
            try:
                if not self.work_once():
                    self.wait()
            except AWAY as error:
                logger.warning("database not available, will look again: %s", error)
                close_old_connections()
                time.sleep(LOOK_SECONDS)

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.is_stopping = True

    def work_once(self) -> bool:
        """Do the next chore. Returns False where nothing waits."""
        chore = chore_claim(self.lane, host=self.host, process=self.mark)
        if chore is None:
            return False

        self.see_through(chore)
        return True

    def see_through(self, chore: Chore) -> None:
        pid, failure = _start(chore)
        reason, code = self.watch(chore, pid)
        error = _read_error(failure)
        try:
            self.conclude(chore, reason, code, error)
        except AWAY:
            # Left as running by a process that is alive. Wait for the database, not for a person.
            close_old_connections()
            time.sleep(LOOK_SECONDS)
            self.conclude(chore, reason, code, error)

    def watch(self, chore: Chore, pid: int) -> tuple[str, int]:
        """Returns (why it was ended, "" where it ended by itself; its exit code)."""
        began = heard = time.monotonic()
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return "", os.waitstatus_to_exitcode(status)

            now = time.monotonic()
            reason = self.overdue(chore, now - began)
            if not reason and now - heard > HEARTBEAT_SECONDS:
                heard, reason = now, _heartbeat(chore)

            if reason:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return reason, -signal.SIGKILL

            time.sleep(TICK_SECONDS)

    def overdue(self, chore: Chore, seconds: float) -> str:
        """Why a chore that has run for so long is to be ended, or nothing."""
        if self.is_stopping:
            return STOPPING
        if seconds > chore.limit_seconds:
            return TOO_LONG

        return SLOW if seconds > LANE_LIMITS.get(chore.lane, math.inf) else ""

    def conclude(self, chore: Chore, reason: str, code: int, error: str) -> None:
        mine = Chore.objects.filter(pk=chore.pk, process=chore.process, starts=chore.starts)
        if code == -signal.SIGXCPU:
            reason = TOO_LONG

        if reason in (CANCELLED, TOO_LONG):
            if mine.delete()[0]:
                chore_ended(chore, reason)
        elif reason == STOPPING:
            chore_give_back(chore, uncounted=True)
        elif reason == SLOW:
            chore_move_on(chore)
        elif code == 0:
            mine.delete()
        else:
            logger.warning("%s broke off with %s", chore.key, code)
            chore_failed(chore, error or f"The process ended with {code}.")

    def wait(self) -> None:
        """Until something may wait, a few seconds at most."""
        try:
            if self.wakeups is None:
                self.wakeups = connection().pubsub(  # type: ignore[no-untyped-call]
                    ignore_subscribe_messages=True
                )
                self.wakeups.subscribe(CHANNEL)

            self.wakeups.get_message(timeout=LOOK_SECONDS)
        except RedisError:
            self.wakeups = None
            time.sleep(LOOK_SECONDS)


def _heartbeat(chore: Chore) -> str:
    """Say that the chore is being worked on. Returns why it is to be ended, or nothing."""
    mine = Chore.objects.filter(pk=chore.pk, process=chore.process, starts=chore.starts)
    try:
        if not mine.update(heartbeat_at=timezone.now()):
            return "gone"

        cancelling = mine.filter(status=Status.CANCELLING).exists()
    except AWAY as error:
        logger.warning("database busy, will try again: %s", error)
        close_old_connections()
        return ""

    return CANCELLED if cancelling else ""


def _start(chore: Chore) -> tuple[int, int]:
    """The process that does the chore: leader of a group of its own. Returns its id and where to
    read the error that it fails with."""
    # No connection may be shared by two processes.
    connections.close_all()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(chore, parent, writing)

    os.close(writing)

    # Both sides do so: whichever comes first.
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)

    return pid, reading


def _read_error(reading: int) -> str:
    """What the process that has ended wrote of its failure, or nothing. Never waits: a program that
    it left behind may still hold the other end."""
    os.set_blocking(reading, False)
    try:
        return os.read(reading, ERROR_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""
    finally:
        os.close(reading)


def _child(chore: Chore, parent: int, writing: int) -> None:
    """Never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, signal.SIG_DFL)

        die_with_parent(parent, signal.SIGKILL)
        function_of(kind_of(chore).run)(*chore.arguments)
        code = 0
    except BaseException as error:
        logger.exception("%s failed", chore.key)
        os.write(writing, f"{type(error).__name__}: {error}".encode()[:ERROR_BYTES])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: the worker's own cleanup must not run in this copy of it.
        os._exit(code)
