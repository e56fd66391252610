"""Repeat a train by hand, without a server.

    python -m engine DIR                  trains what DIR/spec.json says once more, in
                                          DIR/repeats/1, 2 …
    python -m engine DIR --into FOLDER    in FOLDER, which must be new
    python -m engine DIR --in-place       in DIR itself, which must not have been trained in: for
    launchers

A repeat leaves DIR as it is, computes in the precision and with the number of threads that were
recorded there, and says whether its losses are the recorded ones. Exit codes: those of
engine/contract/rundir.py, and 4 where the losses differ."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from engine.contract.rundir import (
    EVENTS,
    EXIT_FAILED,
    EXIT_FINISHED,
    Spec,
    SpecError,
    all_events,
    read_spec,
    write_spec,
)
from engine.run.main import run

REPEATS = "repeats"
EXIT_DIFFERENT = 4


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine", description="Repeat a train by hand.")
    parser.add_argument("directory", type=Path, help="a run directory, such as var/runs/1")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--into", type=Path, metavar="FOLDER", help="a new folder to train in")
    where.add_argument("--in-place", action="store_true", help="train in the run directory itself")
    given = parser.parse_args(arguments)

    try:
        if given.in_place:
            return _in_place(given.directory)

        return _repeat(given.directory, given.into)
    except (SpecError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED


def _in_place(directory: Path) -> int:
    read_spec(directory)
    if (directory / EVENTS).exists():
        raise FileExistsError(
            f"{directory} has been trained in. Leave out --in-place to repeat it beside."
        )

    return run(directory)


def _repeat(directory: Path, into: Path | None) -> int:
    spec = read_spec(directory)
    recorded = list(all_events(directory))
    target = into or next(
        path for number in count(1) if not (path := directory / REPEATS / str(number)).exists()
    )
    if target.exists():
        raise FileExistsError(f"{target} is there already. Name a folder that is new.")

    write_spec(target, _as_recorded(spec, recorded))
    print(f"Repeating train {spec.run_id} in {target}", flush=True)
    code = run(target)
    if code != EXIT_FINISHED:
        return code

    return (
        EXIT_FINISHED if _compare(losses(recorded), losses(all_events(target))) else EXIT_DIFFERENT
    )


def _as_recorded(spec: Spec, recorded: list[dict[str, Any]]) -> Spec:
    """The spec with what was left to the device fixed to what the recorded train had."""
    # From the beginning, however many attempts it took.
    spec = replace(spec, attempt=1, resume_from=None)
    started = next((event for event in recorded if event["type"] == "started"), None)
    if started is None:
        return spec
    if threads := started.get("device", {}).get("threads"):
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if spec.parameters.get("precision", "auto") != "auto":
        return spec

    return replace(
        spec, parameters=spec.parameters | {"precision": started.get("precision", "auto")}
    )


def losses(events: Any) -> dict[tuple[str, int], float | None]:
    """{(split, step): loss} of a run's events; what a later attempt began anew counts as that
    attempt told it."""
    found: dict[tuple[str, int], float | None] = {}
    for event in events:
        if event["type"] == "started" and (begins := event.get("resumed_from")) is not None:
            found = {key: value for key, value in found.items() if 0 < begins >= key[1]}

        if event["type"] == "metrics":
            split = event["split"]
            found[split, event["step"]] = event["values"].get(
                "eval_loss" if split == "eval" else "loss"
            )

    return found


def _compare(
    recorded: dict[tuple[str, int], float | None], repeated: dict[tuple[str, int], float | None]
) -> bool:
    """Print both curves beside each other and whether they are the same. A recorded train that was
    stopped is compared as far as it came."""
    if not recorded:
        print("\nNothing was recorded to compare with.")
        return True

    print("\n  split    step   recorded   repeated")
    for split, step in sorted(recorded, key=lambda key: (key[1], key[0])):
        before, after = recorded[split, step], repeated.get((split, step))
        mark = "" if before == after else "   differs"
        print(f"  {split:5} {step:>7} {_number(before)} {_number(after)}{mark}")

    differing = sum(recorded[key] != repeated.get(key) for key in recorded)
    print(
        f"\n{differing} of {len(recorded)} losses differ."
        if differing
        else f"\nAll {len(recorded)} losses are the same."
    )
    return not differing


def _number(value: float | None) -> str:
    return f"{value:10.6f}" if value is not None else f"{'–':>10}"


if __name__ == "__main__":
    sys.exit(main())
