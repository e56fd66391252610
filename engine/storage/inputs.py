"""What a train needs, from the platform to the nodes: dataset files, base model, reward functions,
trained reward models, and what an earlier attempt left.

Files are put under their SHA-256, so that a base model travels once however many trains use it, and
each node fetches them once (engine.storage.cache)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.contract.rundir import (
    CHECKPOINTS,
    START,
    START_ADAPTER,
    DataFile,
    Spec,
    paths_changed,
    read_spec,
)
from engine.storage.cache import Cache, Entry
from engine.storage.errors import ObjectBroken
from engine.storage.push import first_state
from engine.storage.session import SESSION, Session, owner_of, session_forget
from engine.storage.store import Store
from engine.storage.trees import (
    Sums,
    Tree,
    tree_as_json,
    tree_from_json,
    tree_of,
    tree_put,
    tree_size,
)

VERSION = 1
OBJECTS = "objects"
# Paths of a spec in the storage: of a file or folder that was put, of the files that are made of
# it, and within the run directory.
INPUT, TOKENS, RUN = "input:", "tokens:", "run:"


@dataclass(frozen=True)
class Manifest:
    """`session`: the attempt in the storage, by which everything about it is found. `spec`: its
    spec.json, with paths that mean the same on each machine. `trees`: what was put, by number."""

    session: str
    spec: dict[str, Any]
    trees: list[Tree]

    @property
    def size(self) -> int:
        """Bytes of all inputs, each once."""
        return sum(tree_size(tree) for tree in self.trees)


@dataclass
class _Collected:
    """Inputs while they are collected. `numbers`: {path: its number}."""

    directory: Path
    sums: Sums
    trees: list[Tree] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> str:
        """The path as it stands in the storage. Raises FileNotFoundError."""
        path = Path(text)
        if path.is_relative_to(self.directory):
            name = path.relative_to(self.directory)
            # These are part of the state that the nodes begin with.
            if name.parts[0] in (START, START_ADAPTER, CHECKPOINTS):
                return f"{RUN}{name}"

        if text not in self.numbers:
            self.numbers[text] = len(self.trees)
            is_file = path.is_file()
            self.folders.append(path.parent if is_file else path)
            tree = {path.name: self.sums.digest(path)} if is_file else tree_of(path, self.sums)
            if not tree:
                raise FileNotFoundError(2, "An empty folder", text)

            self.trees.append(tree)

        return f"{INPUT}{self.numbers[text]}" + (f"/{path.name}" if path.is_file() else "")


def inputs_put(store: Store, directory: Path, *, sums: Path | None = None) -> Manifest:
    """Put what the run directory's spec.json refers to and what the storage does not have, and
    begin a session for this attempt. The session of an earlier attempt is cleared away.

    sums: a file in which the digests of large inputs are kept. Raises SpecError, StorageError, and
    OSError for an input that is gone or cannot be read."""
    spec = read_spec(directory)
    collected = _Collected(directory.absolute(), Sums(sums))
    moved = paths_changed(_without_caches(spec), collected.add)
    collected.sums.keep()

    _forget_earlier(store, directory)
    session = Session.new(spec.run_id, spec.attempt, owner_of(directory.absolute().parent))
    (directory / SESSION).write_text(json.dumps({"session": session.name}))

    manifest = Manifest(session.name, asdict(_with_caches(moved, spec)), collected.trees)
    content = {
        "version": VERSION,
        "session": manifest.session,
        "spec": manifest.spec,
        "trees": [tree_as_json(tree) for tree in manifest.trees],
    }
    # Before the files themselves: what is named there is not cleared away meanwhile.
    store.put_bytes(json.dumps(content).encode(), session.inputs)
    for folder, tree in zip(collected.folders, collected.trees, strict=True):
        tree_put(store, folder, tree, OBJECTS)

    first_state(store, session, directory)
    return manifest


def manifest_read(store: Store, session_name: str) -> Manifest:
    """What `inputs_put` returned, on another machine. Raises StorageError."""
    name = Session(session_name).inputs
    try:
        data = json.loads(store.get_bytes(name))
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']!r}")

        trees = [tree_from_json(tree) for tree in data["trees"]]
        return Manifest(data["session"], data["spec"], trees)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ObjectBroken(store.address, name, f"it cannot be read: {error}") from error


@dataclass
class Inputs:
    """The inputs of a train on this node. They stay there until `close`, or the end of this
    process."""

    manifest: Manifest
    entries: list[Entry]
    cache: Cache

    def spec(self, directory: Path) -> Spec:
        """The spec with the paths of this node, for a train in `directory`. Raises SpecError."""
        here = str(directory.absolute())

        def change(text: str) -> str:
            kind, _, rest = text.partition(":")
            number, _, name = rest.partition("/")
            if f"{kind}:" == RUN:
                return f"{here}/{rest}"
            if f"{kind}:" == TOKENS:
                return str(self.entries[int(number)].tokens)
            if f"{kind}:" == INPUT:
                return str(self.entries[int(number)].files / name)

            return text

        return paths_changed(Spec.from_json(self.manifest.spec), change)

    def close(self) -> None:
        self.cache.close()

    def __enter__(self) -> Inputs:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def inputs_fetch(store: Store, manifest: Manifest, cache: Path) -> Inputs:
    """Fetch into the folder `cache` of this node what it lacks: once, however many processes ask at
    once. Raises StorageError, and OSError where the disk has no room."""
    kept = Cache(cache, store.settings.cache_bytes)
    try:
        entries = [kept.entry(store, tree, OBJECTS) for tree in manifest.trees]
    except BaseException:
        kept.close()
        raise

    return Inputs(manifest, entries, kept)


def _forget_earlier(store: Store, directory: Path) -> None:
    """What an attempt left in the storage whose client was killed."""
    try:
        earlier = json.loads((directory / SESSION).read_text())["session"]
    except (OSError, ValueError, LookupError, TypeError):
        return

    session_forget(store, str(earlier))


def _without_caches(spec: Spec) -> Spec:
    return _data_changed(spec, lambda name, data: replace(data, cache=""))


def _with_caches(moved: Spec, spec: Spec) -> Spec:
    """Tokenised rows are kept on the node beside their file, where they are kept here."""

    def change(name: str, data: DataFile) -> DataFile:
        if not getattr(spec, name).cache:
            return data

        number = data.path.removeprefix(INPUT).partition("/")[0]
        return replace(data, cache=f"{TOKENS}{number}" if data.path.startswith(INPUT) else "")

    return _data_changed(moved, change)


def _data_changed(spec: Spec, change: Callable[[str, DataFile], DataFile]) -> Spec:
    dataset = change("dataset", spec.dataset)
    evaluation = spec.evaluation_dataset
    if evaluation is not None:
        evaluation = change("evaluation_dataset", evaluation)

    return replace(spec, dataset=dataset, evaluation_dataset=evaluation)
