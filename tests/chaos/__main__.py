"""python -m tests.chaos: break a running platform at random moments, and see what is lost.

Every round is one train of the tiny model, on one device or on two, with --ray also on those of a
small Ray cluster, and one piece of background work of every kind beside it (tests.chaos.work),
several faults while they run, and then the truth: see tests.chaos.truth. A train whose engine was
killed or that ran out of disk fails, as it should, until somebody resumes it, and so does work whose
program was killed until somebody tries it again; the harness does that."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from engine.programs.local_cluster import LocalCluster
from tests.chaos.chat import ANSWERED, Chat
from tests.chaos.faults import (
    ANSWERS_ALONE,
    EVERYWHERE,
    ON_CLUSTER,
    ONE_WORKER,
    TRAINS_ALONE,
    WORK_ALONE,
    Fault,
    Scene,
    fill_disk,
    jump_clock,
    movable_clock,
    small_home,
)
from tests.chaos.truth import doubled, job_records, leftovers, lost, phantoms
from tests.chaos.work import NAMES, Bench, Merge, Piece, bench_equip, pieces_of
from tests.hub_server import running_hub
from tests.live import ENDED, Platform, running_platform

# Enough that a train outlives its faults.
STEPS_A_FAULT = 200
SAVE_EVERY = 20
FAULTS_A_ROUND = 10
# Between two faults, at most.
PAUSE_SECONDS = 3.0
# For how long a fault waits until there is work again that it can hit.
WORK_SECONDS = 60
ROUND_SECONDS = 1800
# Of the platform, and of the cluster. A round's train is on one of them or on all.
DEVICES = 2
# What is waited for after a loss: shorter than usual, so that a round does not last for hours.
QUICK_CLUSTER = {
    "DEEPEXTENSION_RAY_RETURN_SECONDS": "15",
    "DEEPEXTENSION_RAY_LEASE_SECONDS": "20",
}
TRAIN = "train"
CHAT = "chat"


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


def begin(
    platform: Platform, dataset: int, steps: int, devices: int = 1, launcher: str = ""
) -> int:
    """Start a train, however often the platform has to be asked; the same key starts no second
    one."""
    body = {
        "method": "lora",
        "base_model": "tiny",
        "dataset": dataset,
        "launcher": launcher,
        "parameters": {
            "max_steps": steps,
            "max_tokens": 64,
            "devices": devices,
            "batch_size": 2 // devices,
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


def settle(
    platform: Platform, run: int, deadline: float, pieces: Sequence[Piece] = ()
) -> dict[str, Any]:
    """Wait until the train has finished and these pieces of work are over; resume the train and try
    the others again whenever they fail."""
    row: dict[str, Any] = {"id": run, "status": "unknown", "error": None, "step": 0}
    while time.monotonic() < deadline:
        row = current_state(platform, run) or row
        if row["status"] != "finished" and row["status"] in ENDED:
            resume(platform, row)
        if are_over(pieces) and row["status"] == "finished":
            return row
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


@dataclass
class Round:
    """hits: how many faults hit each kind of work while it ran. problems: {kind: what was lost}, ""
    for what is of no kind. by_hand: how often somebody had to try again."""

    hits: Counter[str] = field(default_factory=Counter)
    by_hand: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=dict)
    life: str = ""

    @property
    def all_problems(self) -> list[str]:
        return [problem for problems in self.problems.values() for problem in problems]

    def add_problems(self, kind: str, problems: list[str]) -> None:
        if problems:
            self.problems.setdefault(kind, []).extend(problems)


def round_of(
    bench: Bench, number: int, faults: list[Fault], names: set[str], draw: random.Random
) -> Round:
    """One train, one piece of work of each of these kinds, and these faults."""
    platform, seen = bench.platform, Round()
    steps = STEPS_A_FAULT * len(faults)
    deadline = time.monotonic() + ROUND_SECONDS
    devices = draw.randint(1, bench.devices)
    launcher = draw.choice(["local", "ray"]) if bench.cluster is not None else ""
    run = begin(platform, bench.dataset, steps, devices, launcher)
    # From its first checkpoint on: before it there is nothing to resume from.
    wait_for_checkpoint(platform, run, deadline)
    pieces = pieces_of(bench, number, names)
    chat = Chat(platform)
    chat.begin()
    # What is asked for first is what most faults hit.
    for piece in draw.sample(pieces, len(pieces)):
        piece.begin(deadline)

    for index, fault in enumerate(faults):
        wait_for_work(bench, run, pieces, index / len(faults))
        time.sleep(draw.uniform(0, PAUSE_SECONDS))
        row = current_state(platform, run)
        lives = row is None or row["status"] not in ENDED
        scene = Scene(platform, run, draw, bench.cluster)
        at_work = running(bench, pieces)
        fault(scene)
        seen.hits.update(struck(fault, scene, pieces, at_work))
        is_elsewhere = fault in ON_CLUSTER and launcher != "ray"
        seen.hits[TRAIN] += lives and fault not in WORK_ALONE and not is_elsewhere
        seen.add_problems("", doubled(platform))
        row = current_state(platform, run)
        if row is not None and row["status"] in ("failed", "stopped"):
            seen.by_hand[TRAIN] += 1
            resume(platform, row)

    row = settle(platform, run, deadline, pieces)
    conclude(bench, pieces, seen)
    seen.hits[CHAT] = sum(fault in ANSWERS_ALONE for fault in faults)
    seen.add_problems(CHAT, chat.end())
    problems = lost(platform, row, steps)
    seen.add_problems(TRAIN, problems)
    of_devices = "one device" if devices == 1 else f"{devices} devices"
    of_devices += " of the cluster" if launcher == "ray" else ""
    seen.life = f"{seen.hits[TRAIN]} while the train lived, on {of_devices}, "
    seen.life += f"its attempt {row.get('attempt')}"
    seen.life += f"; {chat.ends[ANSWERED]} of {chat.ends.total()} questions answered"
    if not problems:
        # Room for the next: the platform keeps a reserve and starts nothing below it.
        platform.api("DELETE", f"trains/{run}/")

    return seen


def wait_for_work(bench: Bench, run: int, pieces: list[Piece], share: float) -> None:
    """Until this share of the work is over and some of the rest is being done, so that faults hit
    all of it; not for ever."""
    deadline = time.monotonic() + WORK_SECONDS
    while time.monotonic() < deadline:
        over = sum(piece.look() for piece in pieces)
        if over == len(pieces) or (over >= share * len(pieces) and running(bench, pieces)):
            return

        row = current_state(bench.platform, run)
        if row is not None and row["status"] in ("failed", "stopped"):
            resume(bench.platform, row)

        time.sleep(0.3)


def are_over(pieces: Sequence[Piece]) -> bool:
    """Each is looked at, also where one is open already: a look is what tries again."""
    looks = [piece.look() for piece in pieces]
    return all(looks)


def running(bench: Bench, pieces: list[Piece]) -> dict[str, str]:
    """{key: name} of the pieces that are being done."""
    query = "SELECT key FROM jobs_job WHERE status IN ('running', 'stopping')"
    keys = {row[0] for row in bench.query(query)}
    return {piece.key: piece.name for piece in pieces if piece.key in keys}


def struck(fault: Fault, scene: Scene, pieces: list[Piece], at_work: dict[str, str]) -> list[str]:
    """The kinds of background work that the fault has hit. at_work: what was being done before."""
    if fault in TRAINS_ALONE:
        return []
    if fault in ONE_WORKER:
        return [piece.name for piece in pieces if piece.key in scene.struck]
    return list(at_work.values())


def conclude(bench: Bench, pieces: list[Piece], seen: Round) -> None:
    """Wait until nothing says that it runs, and compare what is there with what has to be."""
    platform = bench.platform
    deadline = time.monotonic() + 60
    while (ghosts := phantoms(platform)) and time.monotonic() < deadline:
        time.sleep(0.5)

    seen.add_problems("", ghosts + doubled(platform))
    for piece in pieces:
        seen.add_problems(piece.name, piece.truth())
        seen.by_hand[piece.name] += piece.by_hand

    found = job_records(platform) + leftovers(platform)
    seen.add_problems("", [problem for problem in found if problem not in bench.before])
    for piece in pieces:
        if piece.name not in seen.problems:
            piece.remove()


def wait_for_checkpoint(platform: Platform, run: int, deadline: float) -> None:
    while time.monotonic() < deadline:
        row = current_state(platform, run)
        if row is not None and (row["step"] > SAVE_EVERY or row["status"] in ENDED):
            return

        time.sleep(0.1)


class Count:
    """Faults by name, in how many rounds' worth of them something was lost, and the same by kind of
    work."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.lost_hits: Counter[str] = Counter()
        self.by_hand: Counter[str] = Counter()
        self.lost = 0

    @property
    def faults(self) -> int:
        return self.names.total()

    def add(self, faults: list[Fault], seen: Round) -> None:
        self.names.update(fault.__name__ for fault in faults)
        self.hits.update(seen.hits)
        self.by_hand.update(seen.by_hand)
        if seen.problems:
            self.lost += len(faults)

        for kind in seen.problems:
            # Lost without a hit is lost all the same.
            self.lost_hits[kind] += max(1, seen.hits[kind])

    def table(self, names: set[str]) -> str:
        lines = [f"{'kind of work':24} {'hit by':>7} {'survived':>9} {'lost':>5} {'by hand':>8}"]
        for name in [TRAIN, CHAT, *sorted(names)]:
            hits, lost_hits = self.hits[name], self.lost_hits[name]
            survived = max(0, hits - lost_hits)
            lines.append(f"{name:24} {hits:7} {survived:9} {lost_hits:5} {self.by_hand[name]:8}")

        return "\n".join(lines)


def undisturbed_round(bench: Bench, names: set[str]) -> None:
    """Everything once while nothing breaks; on a very busy machine something may reach its time
    limit, and is tried again. Raises AssertionError where that goes wrong."""
    pieces = pieces_of(bench, 0, names)
    deadline = time.monotonic() + ROUND_SECONDS
    for piece in pieces:
        piece.begin(deadline)

    while not are_over(pieces):
        assert time.monotonic() < deadline, [piece.outcome() for piece in pieces]
        time.sleep(0.2)

    seen = Round()
    conclude(bench, [], seen)
    for piece in pieces:
        seen.add_problems(piece.name, piece.truth())
        bench.undisturbed[piece.name] = piece.result()

    for piece in pieces:
        piece.remove()

    assert not seen.problems, seen.problems


def trained(platform: Platform, dataset: int) -> int:
    """A train that has finished, for merges."""
    run = begin(platform, dataset, SAVE_EVERY)
    row = settle(platform, run, time.monotonic() + ROUND_SECONDS)
    assert row["status"] == "finished", row
    return run


@dataclass
class Plan:
    """faults: those that may be drawn. wanted: how many. deadline: no round begins after it. names:
    of the kinds of background work."""

    faults: tuple[Fault, ...]
    wanted: int
    deadline: float
    names: set[str]
    draw: random.Random


def rounds(bench: Bench, plan: Plan, count: Count) -> None:
    undisturbed_round(bench, plan.names)
    number = 0
    while count.faults < plan.wanted and time.monotonic() < plan.deadline:
        number += 1
        size = min(FAULTS_A_ROUND, plan.wanted - count.faults)
        faults = [plan.draw.choice(plan.faults) for _ in range(size)]
        began = time.monotonic()
        seen = round_of(bench, number, faults, plan.names, plan.draw)
        count.add(faults, seen)
        words = ", ".join(fault.__name__ for fault in faults)
        hits = ", ".join(f"{name} {hit}" for name, hit in sorted(seen.hits.items()))
        print(
            f"{time.monotonic() - began:5.0f} s  {words} ({seen.life}; hits: {hits}): "
            f"{'; '.join(seen.all_problems) or 'well'}",
            flush=True,
        )


@contextlib.contextmanager
def running_bench(
    home: Path,
    outside: Path,
    variables: dict[str, str],
    names: set[str],
    cluster: LocalCluster | None = None,
) -> Iterator[Bench]:
    """A platform in `home` with a hub beside it. outside: a folder for files that are no
    platform's."""
    if cluster is not None:
        variables |= {
            "DEEPEXTENSION_RAY_ADDRESS": cluster.address,
            "DEEPEXTENSION_RAY_TOKEN": cluster.token,
            **QUICK_CLUSTER,
        }

    with running_hub() as hub:
        variables |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        variables |= {"DEEPEXTENSION_CPU_DEVICES": str(DEVICES)}
        with running_platform(home, variables) as platform:
            bench = bench_of(platform)
            bench.devices = DEVICES
            bench.cluster = cluster
            if Merge.name in names:
                bench.train = trained(platform, bench.dataset)

            bench_equip(bench, hub, outside)
            yield bench


def bench_of(platform: Platform) -> Bench:
    """What a platform is enough for that has no hub: checks of datasets and counts of their
    tokens. What is odd about it already is none of our business."""
    dataset = int(platform.upload("chaos.jsonl", toy_rows())["id"])
    return Bench(platform, dataset, before={*job_records(platform), *leftovers(platform)})


def main() -> int:
    """Ctrl-C ends it early, and still says what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=math.inf, help="then no round begins")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", help="names of faults, with commas")
    parser.add_argument("--work", help="kinds of background work, with commas; all where not given")
    parser.add_argument(
        "--ray", action="store_true", help="every second train on a small Ray cluster, which breaks"
    )
    arguments = parser.parse_args()
    # A tiny model gains nothing from threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"seed {arguments.seed}", flush=True)
    count = Count()
    names = NAMES if arguments.work is None else NAMES & set(arguments.work.split(","))
    with (
        tempfile.TemporaryDirectory(prefix="deepextension-chaos-") as folder,
        tempfile.TemporaryDirectory(prefix="deepextension-chaos-hub-") as outside,
        small_home(Path(folder)) as is_small,
    ):
        known: tuple[Fault, ...] = (*EVERYWHERE, fill_disk) if is_small else EVERYWHERE
        if arguments.ray:
            known = (*known, *ON_CLUSTER)
        if not is_small:
            print("No file system can be mounted here: the full disk is left out.", flush=True)
        if clock := movable_clock(Path(folder)):
            known = (*known, jump_clock)
        else:
            print("There is no C compiler here: the clock that jumps is left out.", flush=True)
        if arguments.only:
            known = tuple(fault for fault in known if fault.__name__ in arguments.only.split(","))
        deadline = time.monotonic() + 60 * arguments.minutes
        plan = Plan(known, arguments.faults, deadline, names, random.Random(arguments.seed))
        with (
            contextlib.suppress(KeyboardInterrupt),
            LocalCluster(DEVICES) if arguments.ray else contextlib.nullcontext() as cluster,
            running_bench(Path(folder), Path(outside), clock, names, cluster) as bench,
        ):
            rounds(bench, plan, count)
    print(json.dumps(dict(sorted(count.names.items()))))
    print(count.table(names))
    survived = count.faults - count.lost
    print(
        f"{count.faults} faults, {survived} survived, {count.lost} lost (seed {arguments.seed})",
        flush=True,
    )
    return 1 if count.lost else 0


if __name__ == "__main__":
    sys.exit(main())
