"""The engine as a process: forked from the warm worker, supervised by its pid.

Forking costs no import time, since the worker has imported torch already. It is safe only because the worker has run
no tensor operation: after one threaded operation a forked child hangs. A child that cannot train all the same
(engine.warm.can_train) becomes a fresh process. The child gives up everything of the parent's that is not the engine's:
signal handlers, standard output, and (closed before the fork) database connections.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections

from core.memory import Death, MemoryWatch, peak_bytes
from core.processes import die_with_parent
from engine.rundir import EXIT_FAILED, LOG, SpecError, read_spec


class Engine:
    """A running engine: start it, look whether it has ended, signal it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        self.memory = MemoryWatch(pid)
        self.death: Death | None = None

    @classmethod
    def start(cls, directory: Path) -> Engine:
        connections.close_all()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _child(directory, parent)
        return cls(pid)

    def poll(self) -> int | None:
        """The exit status once it has ended (negative: the signal that killed it), None while it runs."""
        if self.status is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.death = self.memory.death(peak_bytes(usage))
        return self.status

    def signal(self, sign: signal.Signals) -> None:
        if self.status is None:
            os.kill(self.pid, sign)


def _parameters(directory: Path) -> dict[str, Any]:
    """Those of the spec; none where it cannot be read, which the engine says better."""
    try:
        return read_spec(directory).parameters
    except SpecError:
        return {}


def _child(directory: Path, parent: int) -> None:
    """Never returns."""
    code = EXIT_FAILED
    try:
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(sign, signal.SIG_IGN if sign == signal.SIGINT else signal.SIG_DFL)
        die_with_parent(parent, signal.SIGKILL)
        log = os.open(directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
        from engine import warm
        from engine.main import run

        if not warm.can_train(_parameters(directory)):
            os.chdir(settings.BASE_DIR)
            os.execv(sys.executable, [sys.executable, "-m", "engine.main", str(directory)])  # noqa: S606
        code = run(directory)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: the worker's own cleanup must not run in this copy of it.
        os._exit(code)
