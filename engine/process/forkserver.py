"""A warm process that engines are forked from: `python -m engine.process.forkserver FD [--light]`.

It has imported every training library and run no tensor operation (engine.process.preload says
why), so that a train starts without delay. It knows nothing of the platform: no settings, no
database, no secrets. An engine is a copy of it, and so whatever runs in an engine, a custom reward
function too, finds none of them in its memory either. --light: it imports nothing, for trains that are
computed on a cluster.

The platform (jobs.devices.engine_process) holds the other end of a socket. A message there asks for one
engine and brings these file descriptors:

    channel  a socket: signal numbers come in, one byte each; JSON lines go out, {"pid": of the
             engine} at once and {"status": exit status, "peak": largest resident set in bytes} at
             its end
    request  a pipe with JSON: {"directory": run directory, "environment": {more variables of this
             engine}}
    locks    one or more: the worker's own and those of the train's devices, which the engine holds
             as long as it lives

An engine whose channel is closed is killed: nobody would learn of its end. So is one that still
runs when the next is asked for, since a worker trains one at a time: its supervisor is gone, and
the next starts only once it has released its run directory and the device's memory. When nobody
holds the other end of the first socket any more this process ends, and its engines with it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from engine.contract.rundir import EXIT_FAILED, LOG, SpecError, read_spec
from engine.process import preload
from engine.process.isolation import die_with_parent

READY = b"ready"
# Of a request's environment: the address of the Ray cluster on which the train is to run.
CLUSTER = "DEEPEXTENSION_RAY_ADDRESS"
ASK = b"engine"
# How late the end of an engine may be noticed.
TICK_SECONDS = 0.05
# How long a killed engine may take to end; one that waits for a driver or a network drive may never
# do.
LEAVING_SECONDS = 30
FEWEST_DESCRIPTORS = 3
# A train has 64 devices at most.
MOST_DESCRIPTORS = FEWEST_DESCRIPTORS + 64


class ForkServer:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.engines: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until nobody could ask for an engine any more."""
        while self.step():
            self.reap()

        self.kill_all()

    def kill_all(self) -> None:
        for pid in self.engines:
            os.kill(pid, signal.SIGKILL)

    def step(self) -> bool:
        """Wait for events and handle them. False once the platform is gone."""
        timeout = TICK_SECONDS if self.engines else None
        for key, _ in self.selector.select(timeout):
            if key.fileobj is not self.control:
                self.pass_signal(key.data)
            elif not self.answer():
                return False

        return True

    def answer(self) -> bool:
        """Start the engine that is asked for. False where the socket has been closed."""
        message, descriptors, _, _ = socket.recv_fds(self.control, 64, MOST_DESCRIPTORS)
        if not message:
            return False

        if len(descriptors) < FEWEST_DESCRIPTORS:
            for descriptor in descriptors:
                os.close(descriptor)

            return True

        self.end_leftovers()
        channel, request, *locks = descriptors
        # Else the fork would print what is buffered a second time.
        sys.stdout.flush()
        sys.stderr.flush()

        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self.become_engine(parent, channel, request)

        for descriptor in (request, *locks):
            os.close(descriptor)

        self.engines[pid] = socket.socket(fileno=channel)
        self.report(self.engines[pid], {"pid": pid})
        self.selector.register(self.engines[pid], selectors.EVENT_READ, pid)

        return True

    def end_leftovers(self) -> None:
        """Kill the engines of supervisors that are gone and wait until they have ended."""
        self.kill_all()
        deadline = time.monotonic() + LEAVING_SECONDS

        while self.engines and time.monotonic() < deadline:
            self.reap()
            time.sleep(TICK_SECONDS if self.engines else 0)

    def become_engine(self, parent: int, channel: int, request: int) -> NoReturn:
        """In the fork: close what belongs to the server. The locks stay open, on purpose."""
        self.selector.close()
        self.control.close()

        for other in self.engines.values():
            other.close()

        os.close(channel)
        run_engine(parent, request)

    def pass_signal(self, pid: int) -> None:
        """Send the engine the signal that its supervisor sent, or kill it where the supervisor is
        gone."""
        channel = self.engines.get(pid)
        if channel is None:
            # It was asked for while the next engine was: see end_leftovers.
            return

        try:
            byte = channel.recv(1)
        except OSError:
            byte = b""

        if byte:
            os.kill(pid, byte[0])
            return

        self.selector.unregister(channel)
        os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Report the engines that have ended."""
        for pid in list(self.engines):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if not ended:
                continue

            channel = self.engines.pop(pid)
            if channel.fileno() in self.selector.get_map():
                self.selector.unregister(channel)

            end = {"status": os.waitstatus_to_exitcode(status), "peak": peak_bytes(usage)}
            self.report(channel, end)
            channel.close()

    def report(self, channel: socket.socket, event: dict[str, int]) -> None:
        """Tell the supervisor. Where it is gone, whoever takes over reads the run directory."""
        with contextlib.suppress(OSError):
            channel.sendall(json.dumps(event).encode() + b"\n")


def peak_bytes(usage: resource.struct_rusage) -> int:
    """The largest resident set of a process that was waited for."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_engine(parent: int, request: int) -> NoReturn:
    """Train, in a fork of the warm process, and end with the exit code of engine/contract/rundir.py."""
    code = EXIT_FAILED
    try:
        die_with_parent(parent, signal.SIGKILL)
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(sign, signal.SIG_IGN if sign == signal.SIGINT else signal.SIG_DFL)

        with os.fdopen(request) as stream:
            wanted = json.load(stream)

        directory = Path(wanted["directory"])
        _redirect_output(directory / LOG)
        os.environ.update(wanted["environment"])

        if CLUSTER in wanted["environment"]:
            command = [sys.executable, "-m", "engine.cluster", str(directory)]
            os.execv(sys.executable, command)  # noqa: S606

        if not preload.can_train(_parameters(directory)):
            os.execv(sys.executable, [sys.executable, "-m", "engine.run.main", str(directory)])  # noqa: S606

        from engine.run.main import run

        code = run(directory)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: the server's own cleanup must not run in this copy of it.
        os._exit(code)


def _redirect_output(path: Path) -> None:
    """Send standard output and error to the train's log, line by line."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


def _parameters(directory: Path) -> dict[str, Any]:
    """The spec's parameters; none where it cannot be read, which the engine reports better."""
    try:
        return read_spec(directory).parameters
    except SpecError:
        return {}


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    if "--light" not in sys.argv:
        preload.load()

    control.send(READY)

    # These signals reach the workers too, which stop their trains in order; then nobody holds the
    # socket.
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)

    ForkServer(control).serve()


if __name__ == "__main__":
    main()
