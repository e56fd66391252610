"""The run directory: everything a train reads and writes. Standard library only; both sides import
it.

Who writes what:

    spec.json              the web, before each attempt is queued (temporary file, then rename)
    start/                 the web: of a branch, the sealed weights to begin with
    start-adapter/         the web: of a train that carries an adapter on, that adapter, sealed
    stop                   the supervisor: finish the step, save, leave
    save                   the web: save a checkpoint after this step; the engine takes the file
                           away
    events.jsonl           the engine, one line a write, numbered by `seq`
    held-out.json          the engine: which rows of the dataset it held out
    train.log              the supervisor redirects the engine's stdout and stderr into it
    rank-1.log …           of a train on several devices: what its other processes print; removed
                           where it ends well
    cluster/               of a train on a Ray cluster: the client's sign of life, and which start of
                           the ranks may write
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
from typing import Any, Self, TypeVar, cast

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
HELD_OUT = "held-out.json"
START = "start"
START_ADAPTER = "start-adapter"
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


def rank_log(index: int) -> str:
    """The name of the log of rank `index`, which is not the first."""
    return f"rank-{index}.log"


class SpecError(ValueError):
    """spec.json is missing, is not JSON, or is not of a version and shape that this engine
    knows."""


@dataclass(frozen=True)
class DataFile:
    """One dataset file. `format`: a slug of engine.rows.formats; `column_map`: that format's columns
    to the file's; `cache`: a folder for files that are derived from it and may be lost, "" where
    nothing may be cached."""

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
    """Weights to start from: a sealed folder, and the train and step that they are of."""

    path: str
    run_id: int
    step: int


@dataclass(frozen=True)
class StartAdapter:
    """An adapter to carry on: a sealed folder, and the name of the trained model that it is of.
    The base model of the spec is the one that the adapter was trained on."""

    path: str
    model_name: str


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
    start_adapter: StartAdapter | None = None
    """None for a train whose adapter is new, and in specs written before there was another way."""
    system_prompt: str = ""
    health: dict[str, float] = field(default_factory=dict)
    """Thresholds of engine.messages.health that differ from the defaults."""
    base_model_source: HubModel | None = None
    """None for a base model that is not from the hub, and in specs written before this was kept."""
    attempt: int = 1
    resume_from: str | None = None
    last_seq: int = 0
    """The number of the last event of earlier attempts that the web has stored. Events are numbered
    from there on even where their file was truncated or removed, so that none is mistaken for one
    that is stored already."""
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
        for key, kind in _PARTS.items():
            if values.get(key) is not None:
                values[key] = _build(kind, values[key], where=f"spec.json, {key}")

        resources = values.get("resources", {})
        if not isinstance(resources, dict):
            raise SpecError("spec.json, resources does not hold an object.")

        values["resources"] = {
            name: _build(Resource, item, where=f"spec.json, resources, {name}")
            for name, item in resources.items()
        }
        return _build(cls, values, where="spec.json")


# The keys of spec.json that hold an object of their own.
_PARTS: dict[str, type[Any]] = {
    "dataset": DataFile,
    "evaluation_dataset": DataFile,
    "program": Program,
    "base_model_source": HubModel,
    "branch": Branch,
    "start_adapter": StartAdapter,
}


def _build(kind: type[T], values: Any, *, where: str) -> T:
    """A dataclass from a JSON object. Raises SpecError for an unknown key, and where a key without
    a default is missing."""
    if not isinstance(values, dict):
        raise SpecError(f"{where} does not hold an object.")

    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise SpecError(f"{where} has unknown keys: {', '.join(unknown)}.")

    try:
        return kind(**values)
    except TypeError as error:
        raise SpecError(f"{where}: {error}.") from error


def paths_changed(spec: Spec, change: Callable[[str], str]) -> Spec:
    """The spec with every path of a file or folder in it changed; the interpreter of a custom
    method, which belongs to the machine, and paths that are empty stay as they are."""

    def changed(item: Any, *names: str) -> Any:
        """A part of the spec with the paths in these attributes changed."""
        if item is None:
            return None

        paths = {name: getattr(item, name) for name in names}
        return replace(item, **{name: change(path) for name, path in paths.items() if path})

    resources = {
        name: changed(resource, "path", "base_path") for name, resource in spec.resources.items()
    }
    spec = replace(
        spec,
        dataset=changed(spec.dataset, "path", "cache"),
        evaluation_dataset=changed(spec.evaluation_dataset, "path", "cache"),
        resources=resources,
        program=changed(spec.program, "script"),
        branch=changed(spec.branch, "path"),
        start_adapter=changed(spec.start_adapter, "path"),
    )

    return cast("Spec", changed(spec, "base_model_path", "resume_from"))


def write_spec(directory: Path, spec: Spec, *, home: Path | None = None) -> Path:
    """Write spec.json whole or not at all (temporary file, then rename).

    home: paths below it are written relative to `directory`, so that the whole home can be moved.
    """
    directory.mkdir(parents=True, exist_ok=True)

    if home is not None:
        spec = paths_changed(spec, lambda text: _relative(text, directory, home))

    text = json.dumps(asdict(spec), indent=2, ensure_ascii=False, allow_nan=False)
    temporary = directory / f"{SPEC}.tmp"
    temporary.write_text(text + "\n")
    temporary.replace(directory / SPEC)

    return directory / SPEC


def _relative(text: str, directory: Path, home: Path) -> str:
    if not Path(text).is_relative_to(home):
        return text

    return os.path.relpath(text, directory)


def read_spec(directory: Path) -> Spec:
    """The spec with absolute paths. Raises SpecError with a sentence a person can act on."""
    spec = _read_spec(directory)
    # As text and not by the file system: `directory` may lie behind a link to another disk.
    base = os.path.abspath(directory)  # noqa: PTH100 - Path.resolve() would follow that link

    def absolute(text: str) -> str:
        return os.path.normpath(os.path.join(base, text))  # noqa: PTH118 - likewise

    return paths_changed(spec, absolute)


def _read_spec(directory: Path) -> Spec:
    try:
        data = json.loads((directory / SPEC).read_text())
    except FileNotFoundError as error:
        raise SpecError(f"{directory} has no {SPEC}: it is not a run directory.") from error
    except ValueError as error:
        raise SpecError(f"{directory / SPEC} is not JSON: {error}.") from error

    return Spec.from_json(data)


def held_out_write(directory: Path, numbers: list[int]) -> None:
    """Write down which rows of the dataset's file are held out, by their number in it, from 0."""
    temporary = directory / f"{HELD_OUT}.tmp"
    temporary.write_text(json.dumps({"rows": numbers}))
    temporary.replace(directory / HELD_OUT)


def held_out_read(directory: Path) -> list[int] | None:
    """None where nobody wrote that down."""
    try:
        rows = json.loads((directory / HELD_OUT).read_text())["rows"]
    except (OSError, ValueError, LookupError, TypeError):
        return None

    if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
        return None

    return rows


class EventWriter:
    """Appends to events.jsonl: one line a write, `seq` counted from 1, times in Unix seconds."""

    def __init__(self, directory: Path, seq: int = 0) -> None:
        """`seq`: the number of the last event that is there already."""
        self.path = directory / EVENTS
        self.seq = seq

    @classmethod
    def resume(cls, directory: Path, stored: int = 0) -> EventWriter:
        """A writer that continues after an earlier attempt. A last line that the attempt did not
        finish is ended, and is not an event.

        stored: the number of the last event that the web has stored, should the file have lost it.
        """
        last = stored
        for event in all_events(directory):
            last = max(last, event["seq"])

        path = directory / EVENTS
        if path.is_file() and path.stat().st_size and not _ends_with_newline(path):
            with path.open("ab", buffering=0) as stream:
                stream.write(b"\n")

        return cls(directory, last)

    def write(self, kind: str, **values: Any) -> int:
        """Append one event and return its seq. Non-finite numbers become null and are named in
        `nonfinite`."""
        if kind not in EVENT_TYPES:
            raise ValueError(f"unknown event type {kind!r}")

        self.seq += 1
        event: dict[str, Any] = {
            "v": EVENT_VERSION,
            "seq": self.seq,
            "time": round(time.time(), 3),
            "type": kind,
        }

        nonfinite: list[str] = []
        for key, value in values.items():
            event[key] = _finite(value, key, nonfinite)

        if nonfinite:
            event["nonfinite"] = nonfinite

        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        self._append(line.encode())
        return self.seq

    def _append(self, line: bytes) -> None:
        """One write of a whole line: a reader sees all of it or a tail without a newline, never a
        mixture of two. Raises OSError where the disk is full."""
        with self.path.open("ab", buffering=0) as stream:
            if stream.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))


def _finite(value: Any, name: str, nonfinite: list[str]) -> Any:
    """The value with null for NaN and infinity, which JSON does not have; their names are added to
    `nonfinite`."""
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
    """Whole events from byte `offset` on, and the offset to continue from. Lines that are not an
    event are skipped."""
    try:
        with (directory / EVENTS).open("rb") as stream:
            stream.seek(offset)
            block = stream.read(limit_bytes)
            if len(block) == limit_bytes and b"\n" not in block:
                block += stream.readline()
    except FileNotFoundError:
        return [], offset

    end = block.rfind(b"\n") + 1
    events = []

    for line in block[:end].splitlines():
        event = _event(line)
        if event is not None:
            events.append(event)

    return events, offset + end


def all_events(directory: Path) -> Iterator[dict[str, Any]]:
    """Every whole event there is, in order."""
    offset = 0
    while True:
        events, end = read_events(directory, offset)
        yield from events

        if end == offset:
            return

        offset = end


def seq_before(directory: Path, offset: int) -> int | None:
    """The seq of the event whose line ends at byte `offset`, 0 where that line is no event; None
    where no line ends there. Raises FileNotFoundError."""
    with (directory / EVENTS).open("rb") as stream:
        length = 0
        block = b""
        # Most lines are short, and a sample may be long.
        while length < offset and b"\n" not in block[:-1]:
            length = min(offset, max(4096, 16 * length))
            stream.seek(offset - length)
            block = stream.read(length)
            if not block.endswith(b"\n") or len(block) < length:
                return None

    event = _event(block[:-1].rpartition(b"\n")[2])
    return int(event["seq"]) if event is not None else 0


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _event(line: bytes) -> dict[str, Any] | None:
    """The event on a line; None for a line that is not one."""
    try:
        # JSON has no NaN and no infinity, though Python reads them.
        event = json.loads(line, parse_constant=lambda name: None, parse_float=_float_or_none)
    except (ValueError, RecursionError):
        return None

    if not isinstance(event, dict) or event.get("type") not in EVENT_TYPES:
        return None

    seq = event.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 < seq < LARGEST_SEQ:
        return None

    return event if isinstance(event.get("time"), int | float) else None


def _float_or_none(text: str) -> float | None:
    """None for what is beyond all floats, such as 1e999: no database stores infinity in JSON."""
    number = float(text)
    return number if math.isfinite(number) else None


def stop_request(directory: Path) -> None:
    """Ask the engine to finish its step, save and leave."""
    (directory / STOP).touch()


def save_request(directory: Path) -> None:
    """Ask the engine for a checkpoint after its current step."""
    (directory / SAVE).touch()


def save_taken(directory: Path) -> bool:
    """Whether a checkpoint was asked for; the request is removed."""
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
    """Write the COMPLETE manifest (names, sizes, sha256), which must come last: a checkpoint
    without one does not count.

    known: entries of another manifest, for files that are the same there and need not be read
    again."""
    known = known or {}
    manifest = {}

    for path in sorted(checkpoint.rglob("*")):
        if not path.is_file() or path.name == MANIFEST:
            continue

        name = str(path.relative_to(checkpoint))
        size = path.stat().st_size
        entry = known.get(name, {})

        if entry.get("size") != size or "sha256" not in entry:
            entry = {"size": size, "sha256": file_sha256(path)}

        manifest[name] = entry

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
    """Whether every file that the manifest names is there with its size and, where asked for, its
    sha256.

    at_most: total bytes up to which files are read for their sha256; of larger checkpoints only the
    sizes are compared."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        if at_most is not None and sum(entry["size"] for entry in manifest.values()) > at_most:
            hashes = False

        for name, entry in manifest.items():
            path = checkpoint / name
            if path.stat().st_size != entry["size"]:
                return False
            if hashes and file_sha256(path) != entry["sha256"]:
                return False

        return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def checkpoint_step(checkpoint: Path) -> int:
    """The step of checkpoint-N; 0 for another name."""
    step = checkpoint.name.removeprefix("checkpoint-")
    return int(step) if step.isdigit() else 0


def checkpoints(directory: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder) of every checkpoint folder, newest first, whole or not."""
    folders = []
    for path in (directory / CHECKPOINTS).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdigit():
            folders.append((int(step), path))

    yield from sorted(folders, reverse=True)


def checkpoint_latest(directory: Path) -> Path | None:
    """The newest whole checkpoint, None where there is none."""
    for _, path in checkpoints(directory):
        if checkpoint_is_whole(path):
            return path

    return None


def model_publish(directory: Path) -> Path:
    """Rename model.tmp/ to model/: from here on the model is whole. It replaces one of an earlier
    attempt."""
    final = directory / MODEL
    if final.exists():
        shutil.rmtree(final)

    (directory / MODEL_UNFINISHED).rename(final)
    return final
