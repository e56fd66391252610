"""python -m engine.programs.check_method DIR    runs a custom method on a few rows and reports which
points of the contract it breaks.

DIR holds method.json: {"program": file, "interpreter": optional, "formats": […], "parameters": JSON
Schema, "rows": a few rows of data, "values": optional parameters other than the defaults}. Exit
code 0: nothing is broken."""

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
    """Run the method of `folder` twice, once to its end and once with a stop, and check what it
    left."""
    method = json.loads((folder / "method.json").read_text())
    with tempfile.TemporaryDirectory(prefix="check-method-") as home:
        whole = Path(home) / "whole"
        _prepare(whole, folder, method, python)
        seconds, status = _run(whole)
        points = list(_whole_run(whole, status, seconds))

        stopped = Path(home) / "stopped"
        _prepare(stopped, folder, method, python)
        points.append(_stopped_run(stopped))

    return points


def _prepare(directory: Path, folder: Path, method: dict[str, Any], python: str) -> None:
    """Write the run directory."""
    directory.mkdir()
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in method["rows"]]
    data = directory / "data.jsonl"
    data.write_text("".join(lines))

    script = (folder / method["program"]).resolve()
    properties = method["parameters"].get("properties", {})
    defaults = {name: schema.get("default") for name, schema in properties.items()}

    spec = Spec(
        run_id=1,
        name="check",
        method="check",
        recipe=CUSTOM,
        parameters=defaults | method.get("values", {}),
        base_model_path=str(directory),
        base_model_name="none",
        base_model_sha256="",
        dataset=DataFile(str(data), file_sha256(data), "jsonl", method["formats"][0]),
        program=Program(method.get("interpreter", python), str(script), file_sha256(script)),
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
        status = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        return SECONDS, None

    return time.monotonic() - began, status


def _whole_run(directory: Path, status: int | None, seconds: float) -> Iterator[Point]:
    events, lines = _events(directory)
    metrics = [event for event in events if event["type"] == "metrics"]
    endings = [event for event in events if event["type"] in ENDINGS]

    yield Point(
        "It ends by itself",
        "" if status is not None else f"it still ran after {SECONDS} s",
    )
    yield Point(
        "It writes events",
        "" if events else "it wrote none that can be read",
    )
    yield Point(
        "Every line is an event",
        "" if lines == len(events) else f"{lines - len(events)} lines are none",
    )
    yield Point(
        "Events are numbered",
        "" if _rises(events) else "seq does not rise from event to event",
    )
    yield Point(
        "It says how many steps it will make",
        "" if _says_total_steps(events) else "no started event with total_steps",
    )
    yield Point(
        "It tells metrics",
        "" if _train_steps(metrics) else "no metrics event",
    )
    yield Point(
        "Steps rise",
        "" if _steps_rise(metrics) else "the steps of metrics events do not rise",
    )
    yield Point(
        "Metrics have values by name",
        "" if _have_values(metrics) else "a metrics event has no values",
    )
    yield Point("It finishes", _finish_breach(endings, status))

    model = directory / MODEL
    has_model = model.is_dir() and folder_size(model) > 0
    yield Point("It leaves a model", "" if has_model else f"no {MODEL}/ with files in it")

    size = (directory / LOG).stat().st_size
    yield Point(
        "Its log is of a size to read",
        "" if size < LOG_BYTES else f"{size:,} bytes in {seconds:.0f} s",
    )


def _rises(events: list[dict[str, Any]]) -> bool:
    return all(one["seq"] < other["seq"] for one, other in pairwise(events))


def _says_total_steps(events: list[dict[str, Any]]) -> bool:
    for event in events:
        if event["type"] == "started":
            return isinstance(event.get("total_steps"), int)

    return False


def _train_steps(metrics: list[dict[str, Any]]) -> list[Any]:
    return [event.get("step") for event in metrics if event.get("split", "train") == "train"]


def _steps_rise(metrics: list[dict[str, Any]]) -> bool:
    steps = _train_steps(metrics)
    return all(isinstance(step, int) for step in steps) and steps == sorted(steps)


def _have_values(metrics: list[dict[str, Any]]) -> bool:
    return all(isinstance(event.get("values"), dict) and event["values"] for event in metrics)


def _finish_breach(endings: list[dict[str, Any]], status: int | None) -> str:
    """How the run did not finish, "" where it did."""
    if not endings:
        return "no finished event"
    if endings[-1]["type"] == "finished" and status == 0:
        return ""

    # The platform reports what breaks the contract in an event of its own.
    for event in endings:
        if event.get("code") == "custom_contract":
            return str(event["message"])

    return str(endings[-1].get("message", "")) or "no finished event"


def _stopped_run(directory: Path) -> Point:
    """Asked to stop from the start: a program looks for the file at least once a step."""
    title = "It honours a stop"
    stop_request(directory)
    process = _start(directory)

    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        return Point(title, f"asked to stop, it still ran after {STOP_SECONDS} s")

    events, _ = _events(directory)
    endings = [event["type"] for event in events if event["type"] in ENDINGS]
    ending = endings[-1] if endings else "no ending"
    if ending == "stopped":
        return Point(title, "")

    return Point(title, f"asked to stop, it ended with {ending} in place of stopped")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _events(directory: Path) -> tuple[list[dict[str, Any]], int]:
    """(all events, how many lines the file has)."""
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
    broken = 0

    for point in points:
        if point.breach:
            broken += 1
            print(f"broken  {point.title}: {point.breach}")
        else:
            print(f"kept    {point.title}")

    if broken:
        print(f"\n{broken} of {len(points)} points are broken.")
        return 1

    print(f"\nAll {len(points)} points are kept.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
