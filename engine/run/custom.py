"""A custom method: somebody else's program on a run directory, held to the contract of
engine/contract/rundir.py.

The program is started with its own interpreter and the directory as its argument. Its output goes
to the log, which is cut where it grows too long; its environment holds no secrets, and the helper
file is on its path. What it leaves is checked when it has ended, and a breach of the contract is
reported in the last event."""

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
    all_events,
    file_sha256,
    folder_size,
    stop_requested,
)
from engine.process.isolation import die_with_parent

HELPER = Path(__file__).parents[1] / "helper"
LOG_BYTES = 64 << 20
# Variables that the program inherits. None of them holds a secret of the platform.
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
        return _contract_broken(
            directory, "its script is gone or has changed since the method was registered", None
        )

    if not Path(program.interpreter).is_file():
        return _contract_broken(
            directory, f"its interpreter {program.interpreter} is not there", None
        )

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

    return _outcome(directory, child.wait())


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


def _outcome(directory: Path, status: int) -> int:
    """The exit code, by the program's exit status and its last event; a breach of the contract
    becomes the last event."""
    events, invalid_lines = _events(directory)
    kind = events[-1]["type"] if events else ""

    if invalid_lines:
        print(f"Warning: {invalid_lines} lines of {EVENTS} are no events.", flush=True)
    if kind == "failed":
        return EXIT_FAILED

    if not events:
        what = "it wrote no event"
        if invalid_lines:
            what = f"it wrote {invalid_lines} lines to {EVENTS}, and none is an event"

        return _contract_broken(directory, what, status)

    if kind == "stopped" and stop_requested(directory):
        return EXIT_STOPPED

    if kind not in ENDINGS:
        if status < 0 and stop_requested(directory):
            # It ignored the stop file and was ended by a signal; what it had reported counts.
            EventWriter(directory, events[-1]["seq"]).write("stopped", step=0)
            return EXIT_STOPPED

        return _contract_broken(
            directory, f"its last event is {kind!r} and not finished, stopped or failed", status
        )

    if kind == "stopped":
        return _contract_broken(
            directory, "it said that it was stopped, and nobody had asked", status
        )
    if sum(event["type"] in ENDINGS for event in events) > 1:
        return _contract_broken(directory, "it wrote more than one ending", status)
    if status != 0:
        return _contract_broken(directory, "it said that it had finished", status)
    if not (directory / MODEL).is_dir() or not folder_size(directory / MODEL):
        return _contract_broken(
            directory, f"it said that it had finished, and left no {MODEL}/", status
        )

    return EXIT_FINISHED


def _events(directory: Path) -> tuple[list[dict[str, Any]], int]:
    """(all events, how many lines are not events). A last line without its end is not one."""
    events = list(all_events(directory))

    try:
        with (directory / EVENTS).open("rb") as stream:
            lines = sum(1 for line in stream if line.strip())
    except FileNotFoundError:
        lines = 0

    return events, lines - len(events)


def _contract_broken(directory: Path, what: str, status: int | None) -> int:
    """Report as the last event how the contract was broken."""
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
