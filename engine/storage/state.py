"""What a run directory holds, as the storage knows it: one document, written anew at each change,
after all that it names. Who reads it sees a run directory as it was at one moment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from engine.contract.rundir import (
    CHECKPOINTS,
    EVENTS,
    HELD_OUT,
    LOG,
    MODEL,
    START,
    START_ADAPTER,
)
from engine.storage.backends import Digest
from engine.storage.errors import ObjectBroken
from engine.storage.session import Session
from engine.storage.store import Store
from engine.storage.trees import Tree, object_name, tree_as_json, tree_from_json

VERSION = 1
# What of a run directory comes here: besides events and log, and which rows are held out.
RANK_LOGS = "rank-*.log"
FOLDERS = (START, START_ADAPTER, MODEL)
CHECKPOINT = re.compile(rf"{CHECKPOINTS}/checkpoint-[0-9]+")


@dataclass
class State:
    """`number`: counted up at each write. `grown`: {file: its pieces, one after the other}, of files
    that are appended to. `trees`: {folder: its files}, whole ones alone. `files`: the others.
    `saves`: how many requests for a checkpoint the engine has taken. `ended`: nothing more comes."""

    generation: int
    number: int = 0
    grown: dict[str, list[Digest]] = field(default_factory=dict)
    trees: dict[str, Tree] = field(default_factory=dict)
    files: Tree = field(default_factory=dict)
    saves: int = 0
    ended: bool = False

    def length(self, name: str) -> int:
        """Bytes of a file that grows."""
        return sum(piece.size for piece in self.grown.get(name, ()))

    def objects(self) -> set[Digest]:
        """All that it refers to."""
        found = set(self.files.values())
        for tree in self.trees.values():
            found.update(tree.values())
        for pieces in self.grown.values():
            found.update(pieces)

        return found

    def as_json(self) -> dict[str, Any]:
        grown = {
            name: [[piece.size, piece.sha256] for piece in pieces]
            for name, pieces in self.grown.items()
        }
        return {
            "version": VERSION,
            "generation": self.generation,
            "number": self.number,
            "grown": grown,
            "trees": {name: tree_as_json(tree) for name, tree in self.trees.items()},
            "files": tree_as_json(self.files),
            "saves": self.saves,
            "ended": self.ended,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> State:
        """Raises ValueError, KeyError or TypeError for what is none."""
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']!r}")

        grown = {
            name: [Digest(int(size), str(sha256)) for size, sha256 in pieces]
            for name, pieces in data["grown"].items()
        }
        _names_check(grown, data["trees"], data["files"])
        return cls(
            generation=int(data["generation"]),
            number=int(data["number"]),
            grown=grown,
            trees={name: tree_from_json(tree) for name, tree in data["trees"].items()},
            files=tree_from_json(data["files"]),
            saves=int(data["saves"]),
            ended=bool(data["ended"]),
        )


def _names_check(grown: Iterable[str], trees: Iterable[str], files: Iterable[str]) -> None:
    """Names become paths of this machine, where files are replaced and folders removed: only what a
    node writes is taken. Raises ValueError."""
    others = [
        *(name for name in grown if name not in (EVENTS, LOG)),
        *(name for name in trees if name not in FOLDERS and not CHECKPOINT.fullmatch(name)),
        *(name for name in files if name != HELD_OUT and not _is_rank_log(name)),
    ]
    if others:
        raise ValueError(f"{others[0]!r} is nothing that a node writes.")


def _is_rank_log(name: str) -> bool:
    return fnmatchcase(name, RANK_LOGS) and "/" not in name


def state_write(store: Store, session: Session, state: State) -> None:
    state.number += 1
    content = json.dumps(state.as_json(), separators=(",", ":")).encode()
    store.put_bytes(content, session.state(state.generation))


def state_read(store: Store, session: Session, generation: int) -> State:
    """Raises ObjectMissing where this generation has written none yet, and other StorageErrors."""
    name = session.state(generation)
    try:
        return State.from_json(json.loads(store.get_bytes(name)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ObjectBroken(store.address, name, f"it cannot be read: {error}") from error


def piece_read(store: Store, session: Session, piece: Digest) -> bytes:
    return store.get_bytes(object_name(session.objects, piece), piece)
