"""Repeat a train by hand, without a server.

    python -m engine DIR                  trains what DIR/spec.json says once more, in
                                          DIR/repeats/1, 2 …
    python -m engine DIR --into FOLDER    in FOLDER, which must be new
    python -m engine DIR --in-place       in DIR itself, which must not have been trained in: for
                                          launchers
    python -m engine DIR --ranks N        on N devices of this machine, in as many processes, with
                                          as many rows a step as before

A repeat leaves DIR as it is, computes in the precision and with the number of threads that were
recorded there, and prints whether its losses equal the recorded ones. On another number of devices
sums are rounded in another order: then losses are the same that agree to a thousandth. Exit codes:
those of engine/contract/rundir.py, and 4 where the losses differ."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable
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
from engine.schema.registry import RECIPES

REPEATS = "repeats"
EXIT_DIFFERENT = 4
OTHER_DEVICES_TOLERANCE = 1e-3

# {(split, step): loss}, None for a loss that was not finite.
Losses = dict[tuple[str, int], float | None]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine", description="Repeat a train by hand.")
    parser.add_argument("directory", type=Path, help="a run directory, such as var/runs/1")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--into", type=Path, metavar="FOLDER", help="a new folder to train in")
    where.add_argument("--in-place", action="store_true", help="train in the run directory itself")
    parser.add_argument("--ranks", type=int, metavar="N", help="on how many devices")
    options = parser.parse_args(arguments)

    try:
        if options.in_place:
            return _in_place(options.directory, options.ranks)

        return _repeat(options.directory, options.into, options.ranks)
    except (SpecError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED


def _in_place(directory: Path, ranks: int | None) -> int:
    spec = read_spec(directory)
    if (directory / EVENTS).exists():
        raise FileExistsError(
            f"{directory} has been trained in. Leave out --in-place to repeat it beside."
        )

    if ranks is not None:
        write_spec(directory, on_ranks(spec, ranks))

    return run(directory)


def _repeat(directory: Path, into: Path | None, ranks: int | None) -> int:
    spec = read_spec(directory)
    recorded = list(all_events(directory))
    target = into or _next_folder(directory / REPEATS)
    if target.exists():
        raise FileExistsError(f"{target} is there already. Name a folder that is new.")

    is_other = ranks not in (None, _devices(spec))
    repeated = _as_recorded(spec, recorded, same_threads=not is_other)
    if ranks is not None:
        repeated = on_ranks(repeated, ranks)

    write_spec(target, repeated)
    print(f"Repeating train {spec.run_id} in {target}", flush=True)
    code = run(target)
    if code != EXIT_FINISHED:
        return code

    tolerance = OTHER_DEVICES_TOLERANCE if is_other else 0.0
    is_same = _compare(losses(recorded), losses(all_events(target)), tolerance)
    return EXIT_FINISHED if is_same else EXIT_DIFFERENT


def _next_folder(repeats: Path) -> Path:
    """The first of 1, 2 … that is not there yet."""
    for number in count(1):
        folder = repeats / str(number)
        if not folder.exists():
            return folder

    raise AssertionError("count() does not end")


def _as_recorded(spec: Spec, recorded: list[dict[str, Any]], *, same_threads: bool) -> Spec:
    """The spec, from the beginning however many attempts it took, with the precision and, with
    `same_threads`, the number of threads that the recorded train had."""
    spec = replace(spec, attempt=1, resume_from=None)
    started = next((event for event in recorded if event["type"] == "started"), None)
    if started is None:
        return spec

    threads = started.get("device", {}).get("threads")
    if threads and same_threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))

    if spec.parameters.get("precision", "auto") != "auto":
        return spec

    precision = started.get("precision", "auto")
    return replace(spec, parameters=spec.parameters | {"precision": precision})


def _devices(spec: Spec) -> int:
    return int(spec.parameters.get("devices", 1))


def on_ranks(spec: Spec, ranks: int) -> Spec:
    """The same train on `ranks` devices: each step learns from as many rows as before. Raises
    SpecError where they cannot be shared out."""
    parameters = spec.parameters
    if spec.recipe not in RECIPES:
        raise SpecError("A custom program knows itself on how many devices it runs.")
    if ranks < 1:
        raise SpecError("A train takes at least one device.")

    whole = RECIPES[spec.recipe].parameters.model_validate(parameters)
    at_once = whole.batch_size * whole.devices
    if at_once % ranks:
        raise SpecError(
            f"{ranks:,} devices cannot share the {at_once:,} rows that are computed at once."
        )

    changes = {"devices": ranks, "batch_size": at_once // ranks}
    return replace(spec, parameters=parameters | changes)


def losses(events: Iterable[dict[str, Any]]) -> Losses:
    """The losses of a run's events. Steps that a later attempt trained again count as that attempt
    reported them."""
    curve: Losses = {}

    for event in events:
        if event["type"] == "started" and event.get("resumed_from") is not None:
            curve = _until(curve, event["resumed_from"])

        if event["type"] == "metrics":
            split = event["split"]
            name = "eval_loss" if split == "eval" else "loss"
            curve[split, event["step"]] = event["values"].get(name)

    return curve


def _until(curve: Losses, last: int) -> Losses:
    """The curve up to step `last`; nothing of it for 0, where everything is evaluated anew."""
    if not last:
        return {}

    return {(split, step): loss for (split, step), loss in curve.items() if step <= last}


def _compare(recorded: Losses, repeated: Losses, tolerance: float) -> bool:
    """Print both curves beside each other and whether they are equal, to within a share of
    `tolerance`. A recorded train that was stopped is compared up to where it was stopped."""
    if not recorded:
        print("\nNothing was recorded to compare with.")
        return True

    print("\n  split    step   recorded   repeated")
    differing = 0

    for split, step in sorted(recorded, key=lambda key: (key[1], key[0])):
        before = recorded[split, step]
        after = repeated.get((split, step))
        differs = not _is_same(before, after, tolerance)
        differing += differs
        print(
            f"  {split:5} {step:>7} {_number(before)} {_number(after)}"
            f"{'   differs' if differs else ''}"
        )

    if differing:
        print(f"\n{differing} of {len(recorded)} losses differ.")
    else:
        print(f"\nAll {len(recorded)} losses are the same.")

    return not differing


def _is_same(before: float | None, after: float | None, tolerance: float) -> bool:
    if before is None or after is None or not tolerance:
        return before == after

    return math.isclose(before, after, rel_tol=tolerance)


def _number(value: float | None) -> str:
    return f"{'–':>10}" if value is None else f"{value:10.6f}"


if __name__ == "__main__":
    sys.exit(main())
