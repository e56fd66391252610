"""The run directory: everything a train reads and writes. Standard library only; both sides import
it.

Who writes what:

    spec.json              the web, before each attempt is queued (temporary file, then rename)
    start/                 the web: of a branch, the sealed weights to begin with
    stop                   the supervisor: finish the step, save, leave
    save                   the web: save a checkpoint after this step; the engine takes the file
                           away
    events.jsonl           the engine, one line a write, numbered by `seq`
    train.log              the supervisor redirects the engine's stdout and stderr into it
    checkpoints/           the engine; a checkpoint counts only with its COMPLETE manifest, which is
                           written last
    model/                 the engine; written as model.tmp/ and renamed when whole

Reading events twice is harmless: a reader keeps the byte offset up to which it has read, takes
whole lines only (bytes after the last newline wait for the rest of their line), and stores rows
under their unique `seq`."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")

SPEC_VERSION = 1
EVENT_VERSION = 1

LARGEST_SEQ = 1 << 53

EXIT_FINISHED = 0
EXIT_FAILED = 1
EXIT_STOPPED = 3
# The disk had no room for the last event either.
EXIT_DISK_FULL = 5

SPEC = "spec.json"
EVENTS = "events.jsonl"
LOG = "train.log"
STOP = "stop"
SAVE = "save"
START = "start"
CHECKPOINTS = "checkpoints"
MODEL = "model"
MODEL_UNFINISHED = "model.tmp"
MANIFEST = "COMPLETE"

EVENT_TYPES = frozenset(
    {
        "phase",
        "started",
        "metrics",
        "sample",
        "checkpoint",
        "warning",
        "finished",
        "stopped",
        "failed",
    }
)
PHASES = ("loading model", "preparing data", "answering", "evaluating", "training", "saving")


class SpecError(ValueError):
    """spec.json is missing, is not JSON, or is not of a version and shape that this engine
    knows."""


@dataclass(frozen=True)
class DataFile:
    """One dataset file: `format` is a slug of engine.rows.formats, `column_map` maps that format's
    columns to the file's. `cache`: a folder for what is derived from it and may be lost, "" where
    nothing may be kept."""

    path: str
    sha256: str
    file_type: str
    format: str
    column_map: dict[str, str] = field(default_factory=dict)
    cache: str = ""


@dataclass(frozen=True)
class Resource:
    """A file or folder that a parameter names: a trained reward model (`base_path`: the model its
    adapter belongs to), or a reward function's file. `sha256` is of the file, "" for a folder."""

    path: str
    sha256: str = ""
    name: str = ""
    base_path: str = ""


@dataclass(frozen=True)
class Branch:
    """Weights to begin with: a sealed folder, and whose they were."""

    path: str
    run_id: int
    step: int


@dataclass(frozen=True)
class HubModel:
    """Where a base model came from: `org/name` on the hub, and the commit ("" where it is not
    known)."""

    hub_id: str
    revision: str = ""


@dataclass(frozen=True)
class Program:
    """A custom method's program: `interpreter` runs `script`, whose file must still be what it was
    (`sha256`)."""

    interpreter: str
    script: str
    sha256: str


@dataclass(frozen=True)
class Spec:
    """What to train, complete: a run can be repeated from this file and the files it names."""

    run_id: int
    name: str
    method: str
    recipe: str
    parameters: dict[str, Any]
    base_model_path: str
    base_model_name: str
    base_model_sha256: str
    dataset: DataFile
    evaluation_dataset: DataFile | None = None
    resources: dict[str, Resource] = field(default_factory=dict)
    program: Program | None = None
    branch: Branch | None = None
    system_prompt: str = ""
    health: dict[str, float] = field(default_factory=dict)
    """Thresholds of engine.messages.health that are not the usual ones."""
    base_model_source: HubModel | None = None
    """None for a base model that is not from the hub, and in specs that were written before this was kept."""
    attempt: int = 1
    resume_from: str | None = None
    last_seq: int = 0
    """The last event that was stored of earlier attempts. Events are numbered on from there even where their file was
    cut or removed, so that none is taken for one that is known."""
    version: int = SPEC_VERSION

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises SpecError for an unknown version, an unknown key or a missing one."""
        if not isinstance(data, dict):
            raise SpecError("spec.json does not hold an object.")

        if data.get("version") != SPEC_VERSION:
            raise SpecError(
                f"spec.json has version {data.get('version')!r}; this engine reads {SPEC_VERSION}."
            )

        values = dict(data)
        for key in ("dataset", "evaluation_dataset"):
            if values.get(key) is not None:
                values[key] = _build(DataFile, values[key], where=f"spec.json, {key}")

        if values.get("program") is not None:
            values["program"] = _build(Program, values["program"], where="spec.json, program")

        if values.get("base_model_source") is not None:
            values["base_model_source"] = _build(
                HubModel, values["base_model_source"], where="spec.json, base_model_source"
            )

        if values.get("branch") is not None:
            values["branch"] = _build(Branch, values["branch"], where="spec.json, branch")

        resources = values.get("resources", {})
        if not isinstance(resources, dict):
            raise SpecError("spec.json, resources does not hold an object.")

        values["resources"] = {
            name: _build(Resource, item, where=f"spec.json, resources, {name}")
            for name, item in resources.items()
        }
        return _build(cls, values, where="spec.json")


def _build(kind: type[T], values: Any, *, where: str) -> T:
    """A dataclass from a JSON object; every key must be known and every key without a default be
    there."""
    if not isinstance(values, dict):
        raise SpecError(f"{where} does not hold an object.")

    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise SpecError(f"{where} has unknown keys: {', '.join(unknown)}.")

    try:
        return kind(**values)
    except TypeError as error:
        raise SpecError(f"{where}: {error}.") from error


def paths_changed(spec: Spec, change: Callable[[str], str]) -> Spec:
    """The spec with every path of a file or folder in it changed; the interpreter of a custom
    method, which belongs to the machine, and paths that are empty stay as they are."""

    def path(text: str) -> str:
        return change(text) if text else text

    def data_file(data: DataFile) -> DataFile:
        return replace(data, path=path(data.path), cache=path(data.cache))

    resources = {
        name: replace(resource, path=path(resource.path), base_path=path(resource.base_path))
        for name, resource in spec.resources.items()
    }

    return replace(
        spec,
        base_model_path=path(spec.base_model_path),
        dataset=data_file(spec.dataset),
        evaluation_dataset=data_file(spec.evaluation_dataset) if spec.evaluation_dataset else None,
        resources=resources,
        program=replace(spec.program, script=path(spec.program.script)) if spec.program else None,
        branch=replace(spec.branch, path=path(spec.branch.path)) if spec.branch else None,
        resume_from=path(spec.resume_from) if spec.resume_from else spec.resume_from,
    )


def write_spec(directory: Path, spec: Spec, *, home: Path | None = None) -> Path:
    """Write spec.json whole or not at all (temporary file, then rename).

    home: paths below it are written relative to `directory`, so that the whole home can be moved.
    """
    directory.mkdir(parents=True, exist_ok=True)

    if home is not None:
        spec = paths_changed(spec, lambda text: _relative(text, directory, home))

    temporary = directory / f"{SPEC}.tmp"
    temporary.write_text(
        json.dumps(asdict(spec), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )
    temporary.replace(directory / SPEC)

    return directory / SPEC


def _relative(text: str, directory: Path, home: Path) -> str:
    return os.path.relpath(text, directory) if Path(text).is_relative_to(home) else text


def read_spec(directory: Path) -> Spec:
    """The spec with absolute paths. Raises SpecError with a sentence a person can act on."""
    spec = _read_spec(directory)
    # As text and not by the file system: `directory` may lie behind a link to another disk.
    base = os.path.abspath(directory)  # noqa: PTH100 - Path.resolve() would follow that link
    return paths_changed(spec, lambda text: os.path.normpath(os.path.join(base, text)))  # noqa: PTH118


def _read_spec(directory: Path) -> Spec:
    try:
        data = json.loads((directory / SPEC).read_text())
    except FileNotFoundError as error:
        raise SpecError(f"{directory} has no {SPEC}: it is not a run directory.") from error
    except ValueError as error:
        raise SpecError(f"{directory / SPEC} is not JSON: {error}.") from error

    return Spec.from_json(data)


class EventWriter:
    """Appends to events.jsonl: one line a write, `seq` counted from 1, times in Unix seconds."""

    def __init__(self, directory: Path, seq: int = 0) -> None:
        """`seq`: of the last event that is there already."""
        self.path = directory / EVENTS
        self.seq = seq

    @classmethod
    def resume(cls, directory: Path, stored: int = 0) -> EventWriter:
        """Behind what an earlier attempt wrote; a last line that it did not finish is closed, and
        so is no event.

        stored: the last event that is known elsewhere, should the file have lost it.
        """
        last = max((event["seq"] for event in all_events(directory)), default=0)
        last = max(last, stored)
        path = directory / EVENTS
        if path.is_file() and path.stat().st_size and not _ends_with_a_line(path):
            with path.open("ab", buffering=0) as stream:
                stream.write(b"\n")

        return cls(directory, last)

    def write(self, kind: str, **values: Any) -> int:
        """Append one event and return its seq. Non-finite numbers become null and are named in
        `nonfinite`."""
        if kind not in EVENT_TYPES:
            raise ValueError(f"unknown event type {kind!r}")

        self.seq += 1
        nonfinite: list[str] = []
        event = {"v": EVENT_VERSION, "seq": self.seq, "time": round(time.time(), 3), "type": kind}
        event |= {key: _finite(value, key, nonfinite) for key, value in values.items()}

        if nonfinite:
            event["nonfinite"] = nonfinite

        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        # One write of a whole line: a reader sees all of it or a tail without a newline, never a
        # mixture.
        data = line.encode()
        with self.path.open("ab", buffering=0) as stream:
            if stream.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

        return self.seq


def _finite(value: Any, name: str, nonfinite: list[str]) -> Any:
    """JSON has no NaN and no infinity: null in their place, their name kept."""
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(name)
        return None

    if isinstance(value, dict):
        return {key: _finite(item, str(key), nonfinite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, name, nonfinite) for item in value]

    return value


def read_events(
    directory: Path, offset: int = 0, limit_bytes: int = 4 << 20
) -> tuple[list[dict[str, Any]], int]:
    """Whole events from byte `offset` on, and the offset to go on from. Lines that are no event are
    passed over."""
    try:
        with (directory / EVENTS).open("rb") as stream:
            stream.seek(offset)
            block = stream.read(limit_bytes)
            if len(block) == limit_bytes and b"\n" not in block:
                block += stream.readline()
    except FileNotFoundError:
        return [], offset

    end = block.rfind(b"\n") + 1
    events = [event for line in block[:end].splitlines() if (event := _event(line)) is not None]
    return events, offset + end


def all_events(directory: Path) -> Iterator[dict[str, Any]]:
    """Every whole event there is, in order."""
    offset = 0
    while True:
        found, end = read_events(directory, offset)
        yield from found

        if end == offset:
            return

        offset = end


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        # JSON has no NaN and no infinity, though Python reads them.
        event = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None

    if not isinstance(event, dict) or event.get("type") not in EVENT_TYPES:
        return None

    seq, moment = event.get("seq"), event.get("time")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 < seq < LARGEST_SEQ:
        return None

    return event if isinstance(moment, int | float) else None


def stop_request(directory: Path) -> None:
    """Ask the engine to finish its step, save and leave."""
    (directory / STOP).touch()


def save_request(directory: Path) -> None:
    """Ask the engine for a checkpoint after the step that it is at."""
    (directory / SAVE).touch()


def save_taken(directory: Path) -> bool:
    """Whether a checkpoint was asked for; the request is taken away."""
    try:
        (directory / SAVE).unlink()
    except FileNotFoundError:
        return False

    return True


def stop_requested(directory: Path) -> bool:
    return (directory / STOP).exists()


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_size(directory: Path) -> int:
    """Bytes in all files below `directory`."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def checkpoint_seal(checkpoint: Path, known: dict[str, dict[str, Any]] | None = None) -> None:
    """Write the COMPLETE manifest (names, sizes, sha256) last: what has none does not count.

    known: entries of another manifest, for files that are the same there and need not be read
    again."""
    known = known or {}
    names = sorted(
        path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST
    )
    manifest = {}

    for path in names:
        name, size = str(path.relative_to(checkpoint)), path.stat().st_size
        entry = known.get(name, {})
        is_known = entry.get("size") == size and "sha256" in entry
        manifest[name] = entry if is_known else {"size": size, "sha256": file_sha256(path)}

    temporary = checkpoint / f"{MANIFEST}.tmp"
    with temporary.open("w") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())

    temporary.replace(checkpoint / MANIFEST)


def checkpoint_manifest(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """{name: {"size", "sha256"}} as it was sealed; {} for one without a manifest that can be
    read."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return {}

    return manifest if isinstance(manifest, dict) else {}


def checkpoint_is_whole(
    checkpoint: Path, *, hashes: bool = True, at_most: int | None = None
) -> bool:
    """Whether every file that the manifest names is there with its size and, if asked, its sha256.

    at_most: bytes up to which files are read for their sha256; larger checkpoints are judged by
    sizes alone."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        if at_most is not None and sum(entry["size"] for entry in manifest.values()) > at_most:
            hashes = False

        return all(
            (checkpoint / name).stat().st_size == entry["size"]
            and (not hashes or file_sha256(checkpoint / name) == entry["sha256"])
            for name, entry in manifest.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def checkpoint_step(checkpoint: Path) -> int:
    """The step of checkpoint-N; 0 for another name."""
    step = checkpoint.name.removeprefix("checkpoint-")
    return int(step) if step.isdigit() else 0


def checkpoints(directory: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder) of every checkpoint folder, newest first, whole or not."""
    found = []
    for path in (directory / CHECKPOINTS).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdigit():
            found.append((int(step), path))

    yield from sorted(found, reverse=True)


def checkpoint_latest(directory: Path) -> Path | None:
    """The newest whole checkpoint; one that is cut or unsealed is passed over for the one before
    it."""
    return next((path for _, path in checkpoints(directory) if checkpoint_is_whole(path)), None)


def model_publish(directory: Path) -> Path:
    """Rename model.tmp/ to model/: from here on the model is whole. One of an earlier attempt makes
    room for it."""
    final = directory / MODEL
    if final.exists():
        shutil.rmtree(final)

    (directory / MODEL_UNFINISHED).rename(final)
    return final
