"""python -m tests.chaos: break a running platform at random moments, and see what is lost.

Every round is one train of the tiny model, several faults while it runs, and then the truth: see
tests.chaos.truth. A train whose engine was killed or that ran out of disk fails, as it should, until
somebody resumes it; the harness does that."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import requests

from tests.chaos.faults import (
    EVERYWHERE,
    Fault,
    Scene,
    fill_disk,
    jump_clock,
    movable_clock,
    small_home,
)
from tests.chaos.truth import lost, phantoms
from tests.live import ENDED, Platform, running_platform

# Enough that a train outlives its faults.
STEPS_A_FAULT = 200
SAVE_EVERY = 20
FAULTS_A_ROUND = 6
ROUND_SECONDS = 600


def toy_rows() -> bytes:
    rows = [
        {"prompt": f"Question {number}?", "completion": "The answer is yes."}
        for number in range(20)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def current_state(platform: Platform, run: int) -> dict[str, Any] | None:
    """The train as the API returns it, None while the API is away."""
    try:
        answer = platform.api("GET", f"trains/{run}/")
    except requests.RequestException:
        return None
    return answer.json() if answer.status_code == 200 else None


def begin(platform: Platform, dataset: dict[str, Any], steps: int) -> int:
    """Start a train, however often the platform has to be asked; the same key starts no second
    one."""
    body = {
        "method": "lora",
        "base_model": "tiny",
        "dataset": dataset["id"],
        "parameters": {
            "max_steps": steps,
            "max_tokens": 64,
            "batch_size": 2,
            "evaluation_split": 0.1,
            "sample_prompts": 0,
            "save_strategy": "steps",
            "save_every": SAVE_EVERY,
            "save_total_limit": 2,
        },
    }
    key = f"chaos-{time.time()}"
    while True:
        try:
            answer = platform.api("POST", "trains/", json=body, headers={"Idempotency-Key": key})
            if answer.status_code in (200, 201):
                return int(answer.json()["id"])
        except requests.RequestException:
            pass
        time.sleep(0.5)


def settle(platform: Platform, run: int, deadline: float) -> dict[str, Any]:
    """Wait until the train has finished, and resume it whenever it fails."""
    row: dict[str, Any] = {"id": run, "status": "unknown", "error": None, "step": 0}
    while time.monotonic() < deadline:
        row = current_state(platform, run) or row
        if row["status"] == "finished":
            return row
        if row["status"] in ENDED:
            resume(platform, row)
        time.sleep(0.3)
    return row


def resume(platform: Platform, row: dict[str, Any]) -> None:
    """Resume from the newest complete checkpoint; a train that has none is started over, as its page
    advises."""
    try:
        if platform.api("POST", f"trains/{row['id']}/resume/").status_code == 400:
            platform.api("POST", f"trains/{row['id']}/resume/", json={"step": 0})
    except requests.RequestException:
        time.sleep(0.5)


def round_of(
    platform: Platform, dataset: dict[str, Any], faults: list[Fault], draw: random.Random
) -> tuple[list[str], str]:
    """One train and these faults. Returns what was lost, and how many faults hit the train while it
    ran, in words."""
    steps = STEPS_A_FAULT * len(faults)
    run = begin(platform, dataset, steps)
    deadline = time.monotonic() + ROUND_SECONDS
    # From its first checkpoint on: before it there is nothing to resume from.
    wait_for_checkpoint(platform, run, deadline)

    hits = 0
    for fault in faults:
        time.sleep(draw.uniform(0, 1.5))
        row = current_state(platform, run)
        if row is None or row["status"] not in ENDED:
            hits += 1

        fault(Scene(platform, run, draw))
        row = current_state(platform, run)
        if row is not None and row["status"] in ("failed", "stopped"):
            resume(platform, row)

    row = settle(platform, run, deadline)
    problems = lost(platform, row, steps)
    phantom_deadline = time.monotonic() + 30
    while (ghosts := phantoms(platform)) and time.monotonic() < phantom_deadline:
        time.sleep(0.5)

    if not problems:
        # Room for the next: the platform keeps a reserve and starts nothing below it.
        platform.api("DELETE", f"trains/{run}/")

    life = f"{hits} while it lived, attempt {row.get('attempt')}"
    return problems + ghosts, life


def wait_for_checkpoint(platform: Platform, run: int, deadline: float) -> None:
    while time.monotonic() < deadline:
        row = current_state(platform, run)
        if row is not None and (row["step"] > SAVE_EVERY or row["status"] in ENDED):
            return

        time.sleep(0.1)


class Count:
    """Faults by name, and in how many rounds' worth of them something was lost."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.lost = 0

    @property
    def faults(self) -> int:
        return self.names.total()

    def add(self, faults: list[Fault], problems: list[str]) -> None:
        self.names.update(fault.__name__ for fault in faults)
        if problems:
            self.lost += len(faults)


def rounds(
    platform: Platform,
    known: tuple[Fault, ...],
    wanted: int,
    draw: random.Random,
    count: Count,
) -> None:
    dataset = platform.upload("chaos.jsonl", toy_rows())
    while count.faults < wanted:
        faults = [draw.choice(known) for _ in range(min(FAULTS_A_ROUND, wanted - count.faults))]
        began = time.monotonic()
        problems, life = round_of(platform, dataset, faults, draw)
        count.add(faults, problems)
        names = ", ".join(fault.__name__ for fault in faults)
        print(
            f"{time.monotonic() - began:5.0f} s  {names} ({life}): {'; '.join(problems) or 'well'}",
            flush=True,
        )


def main() -> int:
    """Ctrl-C ends it early, and still says what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", help="names of faults, with commas")
    arguments = parser.parse_args()
    # A tiny model gains nothing from threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"seed {arguments.seed}", flush=True)
    count = Count()
    with (
        tempfile.TemporaryDirectory(prefix="deepextension-chaos-") as folder,
        small_home(Path(folder)) as is_small,
    ):
        known: tuple[Fault, ...] = (*EVERYWHERE, fill_disk) if is_small else EVERYWHERE
        if not is_small:
            print("No file system can be mounted here: the full disk is left out.", flush=True)
        if clock := movable_clock(Path(folder)):
            known = (*known, jump_clock)
        else:
            print("There is no C compiler here: the clock that jumps is left out.", flush=True)
        if arguments.only:
            known = tuple(fault for fault in known if fault.__name__ in arguments.only.split(","))
        with (
            contextlib.suppress(KeyboardInterrupt),
            running_platform(Path(folder), clock) as platform,
        ):
            rounds(platform, known, arguments.faults, random.Random(arguments.seed), count)
    print(json.dumps(dict(sorted(count.names.items()))))
    survived = count.faults - count.lost
    print(
        f"{count.faults} faults, {survived} survived, {count.lost} lost (seed {arguments.seed})",
        flush=True,
    )
    return 1 if count.lost else 0


if __name__ == "__main__":
    sys.exit(main())
