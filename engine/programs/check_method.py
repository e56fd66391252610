"""python -m engine.programs.check_method DIR    runs a custom method on a few rows and says what of the
contract it breaks.

DIR holds method.json: {"program": file, "interpreter": optional, "formats": […], "parameters": JSON
Schema, "rows": a few rows of data, "values": optional parameters other than the defaults}. Status
0: nothing is broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.contract.rundir import (
    EVENTS,
    LOG,
    MODEL,
    DataFile,
    Program,
    Spec,
    file_sha256,
    folder_size,
    read_events,
    stop_request,
    write_spec,
)
from engine.run.custom import ENDINGS
from engine.schema.registry import CUSTOM

SECONDS = 120
STOP_SECONDS = 20
LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class Point:
    """One point of the contract: `breach` says how it is broken, "" where it is kept."""

    title: str
    breach: str


def check(folder: Path, python: str = sys.executable) -> list[Point]:
    """Run the method of `folder` twice, once to its end and once with a stop, and judge what it
    left."""
    described = json.loads((folder / "method.json").read_text())
    with tempfile.TemporaryDirectory(prefix="check-method-") as home:
        whole = Path(home) / "whole"
        _prepare(whole, folder, described, python)
        seconds, status = _run(whole)
        points = list(_whole_run(whole, status, seconds))
        stopped = Path(home) / "stopped"
        _prepare(stopped, folder, described, python)
        points += _stopped_run(stopped)

    return points


def _prepare(directory: Path, folder: Path, described: dict[str, Any], python: str) -> None:
    directory.mkdir()
    data = directory / "data.jsonl"
    data.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in described["rows"])
    )
    script = (folder / described["program"]).resolve()
    defaults = {
        name: spec.get("default")
        for name, spec in described["parameters"].get("properties", {}).items()
    }

    spec = Spec(
        run_id=1,
        name="check",
        method="check",
        recipe=CUSTOM,
        parameters=defaults | described.get("values", {}),
        base_model_path=str(directory),
        base_model_name="none",
        base_model_sha256="",
        dataset=DataFile(str(data), file_sha256(data), "jsonl", described["formats"][0]),
        program=Program(described.get("interpreter", python), str(script), file_sha256(script)),
    )

    write_spec(directory, spec)


def _start(directory: Path) -> subprocess.Popen[bytes]:
    log = (directory / LOG).open("wb")
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "engine", "--in-place", str(directory)],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def _run(directory: Path) -> tuple[float, int | None]:
    """(seconds, exit status), None for a run that did not end in time."""
    began = time.monotonic()
    process = _start(directory)

    try:
        return time.monotonic() - began, process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return SECONDS, None


def _whole_run(directory: Path, status: int | None, seconds: float) -> Iterator[Point]:
    events, lines = _events(directory)

    def of(kind: str) -> list[dict[str, Any]]:
        return [event for event in events if event["type"] == kind]

    yield Point(
        "It ends by itself", "" if status is not None else f"it still ran after {SECONDS} s"
    )
    yield Point("It writes events", "" if events else "it wrote none that can be read")
    yield Point(
        "Every line is an event",
        f"{lines - len(events)} lines are none" if lines > len(events) else "",
    )
    numbers = [event["seq"] for event in events]
    rising = all(one < other for one, other in pairwise(numbers))
    yield Point("Events are numbered", "" if rising else "seq does not rise from event to event")
    started = of("started")
    told = bool(started) and isinstance(started[0].get("total_steps"), int)
    yield Point(
        "It says how many steps it will make", "" if told else "no started event with total_steps"
    )
    steps: list[Any] = [
        event.get("step") for event in of("metrics") if event.get("split", "train") == "train"
    ]
    yield Point("It tells metrics", "" if steps else "no metrics event")
    climbing = all(isinstance(step, int) for step in steps) and steps == sorted(steps)
    yield Point("Steps rise", "" if climbing else "the steps of metrics events do not rise")
    named = all(
        isinstance(event.get("values"), dict) and event["values"] for event in of("metrics")
    )
    yield Point("Metrics have values by name", "" if named else "a metrics event has no values")
    endings = [event for event in events if event["type"] in ENDINGS]
    # What breaks the contract is said by the platform in an event of its own.
    breach = next(
        (str(event["message"]) for event in endings if event.get("code") == "custom_contract"), ""
    )
    finished = bool(endings) and endings[-1]["type"] == "finished"
    reason = breach or (str(endings[-1].get("message", "")) if endings else "")
    yield Point("It finishes", "" if finished and status == 0 else reason or "no finished event")
    model = directory / MODEL
    yield Point(
        "It leaves a model",
        "" if model.is_dir() and folder_size(model) else f"no {MODEL}/ with files in it",
    )
    size = (directory / LOG).stat().st_size
    yield Point(
        "Its log is of a size to read",
        "" if size < LOG_BYTES else f"{size:,} bytes in {seconds:.0f} s",
    )


def _stopped_run(directory: Path) -> Iterator[Point]:
    """Asked to stop from the start: a program looks for the file at least once a step."""
    stop_request(directory)
    process = _start(directory)

    try:
        process.wait(STOP_SECONDS)
        events, _ = _events(directory)
        kind = next((event["type"] for event in reversed(events) if event["type"] in ENDINGS), "")
        kept = kind == "stopped"
        breach = (
            ""
            if kept
            else f"asked to stop, it ended with {kind or 'no ending'} in place of stopped"
        )
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        breach = f"asked to stop, it still ran after {STOP_SECONDS} s"

    yield Point("It honours a stop", breach)


def _events(directory: Path) -> tuple[list[dict[str, Any]], int]:
    events, _ = read_events(directory, limit_bytes=1 << 28)
    try:
        lines = sum(1 for line in (directory / EVENTS).read_bytes().splitlines() if line.strip())
    except FileNotFoundError:
        lines = 0

    return events, lines


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "method.json").is_file():
        print(__doc__)
        return 2

    points = check(Path(arguments[0]))
    for point in points:
        print(
            f"{'broken' if point.breach else 'kept  '}  "
            f"{point.title}{f': {point.breach}' if point.breach else ''}"
        )

    broken = sum(bool(point.breach) for point in points)
    print(
        f"\n{broken} of {len(points)} points are broken."
        if broken
        else f"\nAll {len(points)} points are kept."
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
