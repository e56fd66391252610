"""Programs that touch a stranger's files: each in a process of its own with limits on time, memory
and output, which reports by JSON lines on its standard output and is killed with its parent."""

from __future__ import annotations

import json
import logging
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from core.processes import clean_environment, confined
from engine.process.idle_priority import use_idle_priority
from engine.process.waiting import ASLEEP

TICK_SECONDS = 1.0
# How long a program that closed its output may take to end.
EXIT_SECONDS = 30
READ_BYTES = 65_536
LONGEST_REPORT_BYTES = 4 * 2**20
MOST_OUTPUT_BYTES = 256 * 2**20
STDERR_KEPT_BYTES = 4000

READING = "Reading the files"
KILLED = (-signal.SIGKILL, -signal.SIGSEGV)
# How Python, C++ and PyTorch say that an allocation was refused.
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "allocate memory")

logger = logging.getLogger("deepextension.programs")

Report = dict[str, Any]
OnReport = Callable[[Report], None]
OnTick = Callable[[], None]


class ProgramProblem(Exception):
    """Why a program failed, in words for people. `passing`: the cause may pass, so it is worth
    trying again."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class ProgramRefusal(ProgramProblem):
    """The program itself says why: it ran, and found something wrong."""


class TimeLimitReached(ProgramProblem):
    """The program ran for longer than it may."""


class MemoryLimitReached(ProgramProblem):
    """The program needed more memory than it may use."""


class ProgramKilled(ProgramProblem):
    """Something else ended the program, most likely the kernel for lack of memory."""


def program_run(
    module: str,
    *arguments: str,
    seconds: float | None,
    memory_bytes: int | None,
    too_long: str = "This took too long and was ended.",
    work: str = READING,
    idle_priority: bool = False,
    environment: dict[str, str] | None = None,
    on_report: OnReport = lambda report: None,
    on_tick: OnTick = lambda: None,
) -> Report:
    """Run `python -m module arguments…` and return what its last report holds under "done".

    A report is a JSON object on a line of the program's standard output; other lines are ignored,
    since libraries print too. on_report gets every report, on_tick is called at least once a
    second; what they raise ends the program.

    seconds: None for no limit. memory_bytes: of data, without mapped files; None for no limit.
    work: what the program does, as the beginning of a sentence about its failure.
    idle_priority: it computes only while nothing else wants the processor.

    Raises ProgramRefusal with the program's own "error", TimeLimitReached with `too_long` after
    `seconds`, ProgramKilled, and ProgramProblem for any other end.
    """
    program = subprocess.Popen(  # noqa: S603 - a list of our own, no shell
        [sys.executable, "-m", module, *arguments],
        cwd=settings.BASE_DIR,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ASLEEP | clean_environment(**(environment or {})),
        preexec_fn=confined(_limits(memory_bytes), *([use_idle_priority] if idle_priority else [])),
    )

    output = _Output(program, work, on_report)
    deadline = time.monotonic() + seconds if seconds is not None else None

    try:
        while output.is_open:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeLimitReached(too_long)

            on_tick()
            output.read()

        code = program.wait(timeout=EXIT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ProgramProblem(f"{work} did not come to an end. Ask your operator.") from error
    finally:
        output.close()
        if program.poll() is None:
            program.kill()
            program.wait()

    last = output.last_report
    if isinstance(last.get("done"), dict):
        return dict(last["done"])
    if "error" in last:
        raise ProgramRefusal(str(last["error"]), passing=bool(last.get("passing")))

    logger.error("%s ended with %s: %s", module, code, output.stderr_text)
    if code in KILLED:
        raise ProgramKilled(f"{work} was killed, most likely for lack of memory.")

    if any(sign in output.stderr_text for sign in OUT_OF_MEMORY):
        raise MemoryLimitReached(f"{work} needed more memory than it may use and was ended.")

    damaged = " The files may be damaged." if work == READING else ""
    raise ProgramProblem(f"{work} ended with an error.{damaged} Ask your operator.")


class _Output:
    """What a program writes, read as it comes: reports from its standard output, and the end of its
    standard error."""

    def __init__(self, program: subprocess.Popen[bytes], work: str, on_report: OnReport) -> None:
        assert program.stdout is not None
        assert program.stderr is not None

        self.program = program
        self.work = work
        self.on_report = on_report
        self.last_report: Report = {}
        self.stdout_bytes = 0
        self.unfinished_line = b""
        self.stderr = b""

        self.selector = selectors.DefaultSelector()
        self.selector.register(program.stdout, selectors.EVENT_READ, self._read_stdout)
        self.selector.register(program.stderr, selectors.EVENT_READ, self._read_stderr)

    @property
    def is_open(self) -> bool:
        return bool(self.selector.get_map())

    @property
    def stderr_text(self) -> str:
        return self.stderr.decode("utf-8", "replace")

    def read(self) -> None:
        """Read what there is, or wait TICK_SECONDS for more. Raises ProgramProblem where it is more
        than a program may print."""
        has_ended = self.program.poll() is not None
        ready = self.selector.select(TICK_SECONDS)

        if has_ended and not ready:
            # Only a process that it left behind still holds its output open.
            self.close()
            return

        for key, _ in ready:
            piece = os.read(key.fd, READ_BYTES)
            key.data(piece)
            if not piece:
                self.selector.unregister(key.fileobj)

    def _read_stdout(self, piece: bytes) -> None:
        self.stdout_bytes += len(piece)
        *lines, self.unfinished_line = (self.unfinished_line + piece).split(b"\n")

        for line in lines:
            report = _report(line)
            if report is not None:
                self.last_report = report
                self.on_report(report)

        if (
            self.stdout_bytes > MOST_OUTPUT_BYTES
            or len(self.unfinished_line) > LONGEST_REPORT_BYTES
        ):
            raise ProgramProblem(f"{self.work} printed too much and was ended. Ask your operator.")

    def _read_stderr(self, piece: bytes) -> None:
        self.stderr = (self.stderr + piece)[-STDERR_KEPT_BYTES:]

    def close(self) -> None:
        self.selector.close()
        for stream in (self.program.stdout, self.program.stderr):
            if stream is not None:
                stream.close()


def _report(line: bytes) -> Report | None:
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return None

    return report if isinstance(report, dict) else None


def _limits(memory_bytes: int | None) -> Callable[[], None]:
    def apply() -> None:
        # RLIMIT_DATA and not RLIMIT_AS: mapped weights and libraries are address space, not memory.
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return apply


def folder_bytes(path: Path) -> int:
    """Bytes of all files below `path`; files that go away meanwhile count as nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:
                continue

    return total
