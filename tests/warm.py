"""Programs of ours in processes that need not import their libraries first: each is forked from one
that has.

A fresh interpreter takes seconds of a processor to import torch and transformers, and tests start
hundreds of programs. `python -m tests.warm FD KIND` imports them once, runs no tensor operation
(engine.process.preload says why) and forks a process for each program that is asked for over the
socket FD. The fork gets the program's arguments, folder, environment, limits and pipes, and is
confined as the platform confines a fresh one.

There are two kinds. One has imported all that trains. The other has imported what readers of files
need and is small; above all it has not imported the hub's library, which reads its variables while
it is imported, and so may be asked for programs with other variables."""

from __future__ import annotations

import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from core import processes, programs
from engine.process import preload
from engine.process.isolation import die_with_parent

ROOT = Path(__file__).resolve().parent.parent
# Programs that import torch, transformers or peft.
HEAVY = frozenset(
    {
        "engine.chat.lengths",
        "engine.exporting",
        "engine.merging",
        "engine.programs.convert",
        "engine.programs.one_step",
        "engine.programs.token_rows",
        "engine.proof",
        "engine.proof.exported",
        "engine.serving.check",
        "engine.serving.prepare",
    }
)
FOR_READING = (
    "dill",
    "fsspec.asyn",
    "multiprocess",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "requests",
)
DESCRIPTORS = 3
LONGEST_REQUEST = 1 << 18


class Warm:
    """The test's side: one warm process, from the first program on. kind: "training" or
    "reading"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.control: socket.socket | None = None

    def start(self) -> socket.socket:
        self.control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(other.fileno()), self.kind],
                cwd=ROOT,
                pass_fds=[other.fileno()],
            )
        return self.control

    def program(
        self,
        arguments: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: Path = ROOT,
        memory_bytes: int | None = None,
        confined: bool = False,
    ) -> Program:
        """Start `python -m arguments…`. memory_bytes: the limit that core.programs sets; confined: as
        it confines what it starts."""
        request = {
            "arguments": arguments,
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd),
            "memory_bytes": memory_bytes,
            "confined": confined,
        }
        message = json.dumps(request).encode()
        assert len(message) < LONGEST_REQUEST
        (read_out, out), (read_err, err) = os.pipe(), os.pipe()
        channel, theirs = socket.socketpair()
        with theirs:
            control = self.control or self.start()
            socket.send_fds(control, [message], [out, err, theirs.fileno()])
        os.close(out)
        os.close(err)
        return Program(channel, os.fdopen(read_out, "rb"), os.fdopen(read_err, "rb"))

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """As subprocess.run(capture_output=True, text=True)."""
        program = self.program(list(arguments), **options)
        out, err = program.communicate()
        return subprocess.CompletedProcess(
            arguments,
            program.wait(),
            out.decode("utf-8", "replace"),
            err.decode("utf-8", "replace"),
        )

    def close(self) -> None:
        if self.control is not None:
            self.control.close()
            self.process.wait(60)


class Program:
    """A program that runs: as much of subprocess.Popen as there is use for."""

    def __init__(self, channel: socket.socket, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.channel, self.stdout, self.stderr = channel, stdout, stderr
        self.returncode: int | None = None
        self.pid = int(self._said(None))

    def _said(self, timeout: float | None) -> str:
        """The next line of the warm process: the pid at first, and at its end the exit code."""
        self.channel.settimeout(timeout)
        said = b""
        while not said.endswith(b"\n"):
            piece = self.channel.recv(1)
            assert piece, "the warm process has ended"
            said += piece
        return said.decode()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            try:
                self.returncode = int(self._said(timeout))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("a program", timeout or 0) from None
            self.channel.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self) -> tuple[bytes, bytes]:
        """All that it writes."""
        found = {self.stdout: io.BytesIO(), self.stderr: io.BytesIO()}
        with selectors.DefaultSelector() as selector:
            for stream in found:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    stream = self.stdout if key.fileobj is self.stdout else self.stderr
                    piece = os.read(key.fd, 1 << 16)
                    found[stream].write(piece)
                    if not piece:
                        selector.unregister(stream)
        for stream in found:
            stream.close()
        return found[self.stdout].getvalue(), found[self.stderr].getvalue()


class Server:
    """The warm side."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the test process closes its end or dies; programs that still run end with this
        process."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is not self.control:
                    self.report_end(key.fd, *key.data)
                elif not self.start():
                    return

    def start(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self.control, LONGEST_REQUEST, DESCRIPTORS)
        if not message:
            return False
        out, err, channel_number = descriptors
        channel = socket.socket(fileno=channel_number)
        request = json.loads(message)
        limits = limits_of(request)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            die_with_parent(parent, signal.SIGKILL)
            self.control.close()
            channel.close()
            become(request, limits, out, err)
        os.close(out)
        os.close(err)
        channel.sendall(b"%d\n" % pid)
        self.selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, channel))
        return True

    def report_end(self, pidfd: int, pid: int, channel: socket.socket) -> None:
        _, status = os.waitpid(pid, 0)
        self.selector.unregister(pidfd)
        os.close(pidfd)
        with channel, suppress(OSError):
            channel.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def limits_of(request: dict[str, Any]) -> Callable[[], None]:
    """What the platform does in a fresh process before its program begins."""
    if not request["confined"]:
        return lambda: None
    return processes.confined(programs._limits(request["memory_bytes"]))


def become(request: dict[str, Any], limits: Callable[[], None], out: int, err: int) -> NoReturn:
    """Be the program that is asked for, to its end."""
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, out, err)):
            os.dup2(descriptor, number)
        os.closerange(3, 256)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        tempfile.tempdir = None
        limits()
        module, *arguments = request["arguments"]
        sys.argv[1:] = arguments
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as ending:
            code = exit_code(ending)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def exit_code(ending: SystemExit) -> int:
    if ending.code is None or isinstance(ending.code, int):
        return int(ending.code or 0) & 255
    sys.stderr.write(f"{ending.code}\n")
    return 1


def main() -> None:
    die_with_parent(os.getppid(), signal.SIGKILL)
    if sys.argv[2] == "training":
        preload.load()
    else:
        for name in FOR_READING:
            importlib.import_module(name)
        assert "huggingface_hub" not in sys.modules
    Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    # Without the seconds that it takes to take all those libraries down.
    os._exit(0)


if __name__ == "__main__":
    main()
