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

# The platform's own errands come and go all the time.
NO_ERRAND = "kind NOT IN ('notices', 'password-reset')"


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
    """Jobs, trains among them, that say they wait or run when nothing does."""
    with sqlite3.connect(platform.home / "db.sqlite3", timeout=60) as connection:
        query = (
            "SELECT number, kind, name, status FROM jobs_job WHERE status IN ('queued', 'running', "
            f"'stopping') AND {NO_ERRAND}"
        )
        return [
            f"job {number} ({kind} of {name}) still says {status}"
            for number, kind, name, status in connection.execute(query)
        ]


def doubled(platform: Platform) -> list[str]:
    """Keys of which more than one job is open. May be asked while the platform works."""
    with sqlite3.connect(platform.home / "db.sqlite3", timeout=60) as connection:
        query = (
            "SELECT key, count(*) FROM jobs_job WHERE key IS NOT NULL AND status IN ('queued', "
            "'running', 'stopping') GROUP BY key HAVING count(*) > 1"
        )
        return [f"{count} jobs of {key} are open" for key, count in connection.execute(query)]


def job_records(platform: Platform) -> list[str]:
    """What is wrong with the jobs of background work that have ended: each says how it ended, and
    its log tells of its last attempt."""
    problems = []
    with sqlite3.connect(platform.home / "db.sqlite3", timeout=60) as connection:
        query = (
            "SELECT number, kind, status, attempt, error, finished_at, process FROM jobs_job WHERE "
            f"status IN ('finished', 'failed', 'stopped') AND kind <> 'train' AND {NO_ERRAND}"
        )
        ended = list(connection.execute(query))
    for number, kind, status, attempt, error, finished_at, process in ended:
        job = f"job {number} ({kind}, attempt {attempt})"
        if status == "stopped":
            problems.append(f"{job} was stopped, by nobody")
        if status == "failed" and not error:
            problems.append(f"{job} failed and does not say why")
        if not finished_at or process:
            problems.append(f"{job} ended at {finished_at} and is still held by {process!r}")
        log = platform.home / "jobs" / str(number) / "job.log"
        text = log.read_text(errors="replace") if log.is_file() else ""
        if status == "finished" and f", attempt {attempt}\n" not in text:
            problems.append(f"{job} has no log of its last attempt: {text[-200:]!r}")
    return problems


def leftovers(platform: Platform) -> list[str]:
    """Folders and files that belong to nothing, while nothing waits or runs. What an upload left
    that was cut off is kept for a day and no leftover."""
    home = platform.home
    with sqlite3.connect(home / "db.sqlite3", timeout=60) as connection:

        def numbers(table: str, column: str = "id") -> set[str]:
            return {str(row[0]) for row in connection.execute(f"SELECT {column} FROM {table}")}

        known = {
            "datasets": numbers("datasets_app_dataset"),
            "models": numbers("models_app_basemodel") | {"imports", "trained"},
            "models/imports": set(),
            "models/trained": numbers("models_app_basemodel"),
            "jobs": numbers("jobs_job", "number"),
            "runs": numbers("training_trainrun"),
        }
    found = []
    for folder, names in known.items():
        if (home / folder).is_dir():
            there = {path.name for path in (home / folder).iterdir()}
            found += [f"{folder}/{name}" for name in sorted(there - names)]
    trials = list((home / "trials").iterdir()) if (home / "trials").is_dir() else []
    # One a person is kept.
    found += [f"trials/{path.name}" for path in sorted(trials)[1:]]
    unfinished = (
        path
        for folder in ("datasets", "models", "trials", "methods")
        for path in (home / folder).rglob("*")
        if path.suffix in (".tmp", ".incomplete", ".part")
        or (path.name in ("hub", ".cache", "unpacked") and path.is_dir())
    )
    found += [str(path.relative_to(home)) for path in unfinished]
    found += [
        f"tmp/{path.name}"
        for path in (home / "tmp").iterdir()
        if not path.name.startswith("upload-")
    ]
    return [f"left over: {name}" for name in found]
