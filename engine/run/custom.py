"""A custom method: somebody else's program on a run directory, held to the contract of
engine/contract/rundir.py.

The program is started with its own interpreter and the directory as its argument. Its output goes
to the log, which is cut where it grows too long; its secrets-free environment has the helper file
on the path. What it leaves behind is judged when it has ended, and what breaks the contract is said
in the last event."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from engine.contract.rundir import (
    EVENTS,
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_STOPPED,
    MODEL,
    EventWriter,
    Program,
    file_sha256,
    folder_size,
    read_events,
    stop_requested,
)
from engine.process.isolation import die_with_parent

HELPER = Path(__file__).parents[1] / "helper"
LOG_BYTES = 64 << 20
# What a program may know of its surroundings; the platform's secrets are none of its business.
ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)
ENDINGS = ("finished", "stopped", "failed")


def run_program(directory: Path, program: Program) -> int:
    """Run it to its end and return the exit code of engine/contract/rundir.py; the last event is one of the
    three endings."""
    script = Path(program.script)
    if not script.is_file() or file_sha256(script) != program.sha256:
        return _break(
            directory, "its script is gone or has changed since the method was registered", None
        )

    if not Path(program.interpreter).is_file():
        return _break(directory, f"its interpreter {program.interpreter} is not there", None)

    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    environment |= {"PYTHONPATH": str(HELPER), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(  # noqa: S603 - a list, no shell; a superuser registered it
        [program.interpreter, str(script), str(directory)],
        cwd=script.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGKILL),
    )

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    _log(child)

    return _judge(directory, child.wait())


def _log(child: subprocess.Popen[bytes]) -> None:
    """Its output as text, whatever bytes it writes, up to the limit; beyond that it is read and
    dropped."""
    assert child.stdout is not None
    written = 0

    while block := child.stdout.read1(1 << 16):  # type: ignore[attr-defined]
        if written > LOG_BYTES:
            continue

        written += len(block)
        sys.stdout.write(block.decode("utf-8", "replace"))

        if written > LOG_BYTES:
            sys.stdout.write(
                f"\n[The log is cut here: the program has written more than {LOG_BYTES >> 20} "
                "MB.]\n"
            )

        sys.stdout.flush()


def _judge(directory: Path, status: int) -> int:
    """The outcome by exit status and last event; a breach becomes the last event itself."""
    events, nonsense = _events(directory)
    kind = events[-1]["type"] if events else ""

    if nonsense:
        print(f"Warning: {nonsense} lines of {EVENTS} are no events.", flush=True)
    if kind == "failed":
        return EXIT_FAILED

    if not events:
        what = (
            f"it wrote {nonsense} lines to {EVENTS}, and none is an event"
            if nonsense
            else "it wrote no event"
        )

        return _break(directory, what, status)

    if kind == "stopped" and stop_requested(directory):
        return EXIT_STOPPED

    if kind not in ENDINGS:
        if status < 0 and stop_requested(directory):
            # It did not heed the stop file and was ended; what it had told counts.
            EventWriter(directory, events[-1]["seq"]).write("stopped", step=0)
            return EXIT_STOPPED

        return _break(
            directory, f"its last event is {kind!r} and not finished, stopped or failed", status
        )

    if kind == "stopped":
        return _break(directory, "it said that it was stopped, and nobody had asked", status)
    if sum(event["type"] in ENDINGS for event in events) > 1:
        return _break(directory, "it wrote more than one ending", status)
    if status != 0:
        return _break(directory, "it said that it had finished", status)
    if not (directory / MODEL).is_dir() or not folder_size(directory / MODEL):
        return _break(directory, f"it said that it had finished, and left no {MODEL}/", status)

    return EXIT_FINISHED


def _events(directory: Path) -> tuple[list[dict[str, Any]], int]:
    """(all events, how many lines are none). A torn last line is none."""
    events: list[dict[str, Any]] = []
    offset = 0

    while True:
        found, after = read_events(directory, offset)
        events += found

        if after == offset:
            break

        offset = after

    try:
        with (directory / EVENTS).open("rb") as stream:
            lines = sum(1 for line in stream if line.strip())
    except FileNotFoundError:
        lines = 0

    return events, lines - len(events)


def _break(directory: Path, what: str, status: int | None) -> int:
    """Say as the last event how the contract was broken."""
    events, _ = _events(directory)
    last = max((event["seq"] for event in events), default=0)
    ended = "" if status is None else f" It ended with {_status(status)}."
    message = f"The custom method broke the contract: {what}.{ended}"
    print(f"\nFailed: {message}", flush=True)
    EventWriter(directory, last).write(
        "failed",
        code="custom_contract",
        message=message,
        advice="Whoever wrote the method finds the contract in docs/custom-method.md; the Train "
        "Log shows its output.",
    )

    return EXIT_FAILED


def _status(status: int) -> str:
    return f"status {status}" if status >= 0 else f"the signal {signal.Signals(-status).name}"
