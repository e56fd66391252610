"""What has to hold after every fault, read from disk and database and not from the platform's own
answers."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tests.live import Platform


def lost(platform: Platform, run: dict[str, Any], steps: int) -> list[str]:
    """What is wrong with a train that is over, in words; nothing where all is well."""
    problems = []
    directory = platform.home / "runs" / str(run["id"])
    if run["status"] != "finished":
        return [f"train {run['id']} ended as {run['status']}: {run['error']}"]
    if run["step"] != steps:
        problems.append(f"it says step {run['step']} of {steps}")
    stored = rows(platform.home / "db.sqlite3", run["id"])
    if [step for step, split, _ in stored if split == "train"] != list(range(1, steps + 1)):
        problems.append(f"steps are missing or doubled: {gaps(stored, steps)}")
    written = events(directory / "events.jsonl")
    if [(step, split) for step, split, _ in stored] != [
        (step, split) for step, split, _ in written
    ]:
        problems.append(f"{len(written)} rows were written, {len(stored)} are stored")
    elif stored != written:
        problems.append("a stored row has other values than were written")
    problems += model(directory / "model")
    return problems


def rows(database: Path, run: int) -> list[tuple[int, str, Any]]:
    with sqlite3.connect(database, timeout=60) as connection:
        query = 'SELECT step, split, "values" FROM training_metricrow WHERE run_id = ? ORDER BY seq'
        return [
            (step, split, json.loads(values))
            for step, split, values in connection.execute(query, (run,))
        ]


def events(path: Path) -> list[tuple[int, str, Any]]:
    """The metrics that count: steps that a later attempt repeated count once. Read without the
    platform's own reader."""
    counting: list[tuple[int, str, Any]] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("type") == "started" and event.get("resumed_from") is not None:
            counting = [row for row in counting if 0 < event["resumed_from"] >= row[0]]
        elif event.get("type") == "metrics":
            counting.append((event["step"], event["split"], event["values"]))
    return counting


def gaps(stored: list[tuple[int, str, Any]], steps: int) -> str:
    trained = [step for step, split, _ in stored if split == "train"]
    missing = sorted(set(range(1, steps + 1)) - set(trained))
    doubled = sorted({step for step in trained if trained.count(step) > 1})
    return f"missing {missing[:10]}, doubled {doubled[:10]}"


def model(folder: Path) -> list[str]:
    """Whether the adapter opens and holds numbers."""
    try:
        with safe_open(folder / "adapter_model.safetensors", "np") as weights:
            names = list(weights.keys())
            whole = all(math.isfinite(float(weights.get_tensor(name).sum())) for name in names)
    except Exception as error:
        return [f"its model does not open: {error}"]
    return [] if names and whole else ["its model holds no numbers"]


def phantoms(platform: Platform) -> list[str]:
    """Trains that say they run when nothing does."""
    with sqlite3.connect(platform.home / "db.sqlite3", timeout=60) as connection:
        query = (
            "SELECT id, status FROM training_trainrun WHERE status IN ('queued', 'running', "
            "'stopping')"
        )
        return [
            f"train {number} still says {status}" for number, status in connection.execute(query)
        ]
