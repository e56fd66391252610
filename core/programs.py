"""Programs that touch a stranger's files: each in a process of its own with limits on time and
memory, which reports by JSON lines on its standard output and is killed with its parent."""

from __future__ import annotations

import json
import logging
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from django.conf import settings

from core.processes import clean_environment, confined

TICK_SECONDS = 1.0
LONGEST_REPORT_BYTES = 2**20

logger = logging.getLogger("deepextension.programs")


class ProgramProblem(Exception):
    """Why a program came to nothing, in words for people. `passing`: it may go well later, so it is
    tried again."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


def program_run(
    module: str,
    *arguments: str,
    seconds: float | None,
    memory_bytes: int,
    too_long: str = "This took too long and was ended.",
    environment: dict[str, str] | None = None,
    on_news: Callable[[dict[str, Any]], None] = lambda news: None,
    on_tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run `python -m module arguments…` and return what it says last under "done".

    on_news gets every other report, on_tick is called about once a second; what they raise ends the
    program. Raises ProgramProblem with the program's own "error", or with `too_long` after
    `seconds`."""
    with tempfile.TemporaryFile() as complaints:
        program = subprocess.Popen(  # noqa: S603 - a list of our own, no shell
            [sys.executable, "-m", module, *arguments],
            cwd=settings.BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=clean_environment(**(environment or {})),
            preexec_fn=confined(_limits(memory_bytes)),
        )

        try:
            last = _listen(program, seconds, too_long, on_news, on_tick)
            code = program.wait(timeout=30)
        finally:
            if program.poll() is None:
                program.kill()
                program.wait()

        if "done" in last:
            return dict(last["done"])
        if "error" in last:
            raise ProgramProblem(str(last["error"]), passing=bool(last.get("passing")))

        complaints.seek(max(0, complaints.tell() - 4000))
        logger.error(
            "%s ended with %s: %s", module, code, complaints.read().decode("utf-8", "replace")
        )
        raise ProgramProblem(_cause(code))


def _limits(memory_bytes: int) -> Callable[[], None]:
    def apply() -> None:
        # RLIMIT_DATA and not RLIMIT_AS: mapped weights and libraries are address space, not memory.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return apply


def _listen(
    program: subprocess.Popen[bytes],
    seconds: float | None,
    too_long: str,
    on_news: Callable[[dict[str, Any]], None],
    on_tick: Callable[[], None],
) -> dict[str, Any]:
    """The program's last report, read until it closes its output."""
    assert program.stdout is not None
    deadline = time.monotonic() + seconds if seconds is not None else None
    last: dict[str, Any] = {}

    with selectors.DefaultSelector() as selector:
        selector.register(program.stdout, selectors.EVENT_READ)
        rest = b""
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise ProgramProblem(too_long)

            on_tick()
            if not selector.select(TICK_SECONDS):
                continue

            piece = _piece(program.stdout)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                last = json.loads(line)
                on_news(last)

            if not piece:
                return last

            if len(rest) > LONGEST_REPORT_BYTES:
                raise ProgramProblem(
                    "The program that reads the files talks nonsense. Ask your operator."
                )


def _piece(stream: IO[bytes]) -> bytes:
    return os.read(stream.fileno(), 65_536)


def _cause(code: int) -> str:
    if code in (-signal.SIGKILL, -signal.SIGSEGV):
        return "Reading the files was killed, most likely for lack of memory."

    return (
        "Reading the files needed more memory than there may be, or they are damaged. Ask your "
        "operator."
    )


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
