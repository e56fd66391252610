"""What a run directory holds, as the storage knows it: one document, written anew at each change,
after all that it names. Who reads it sees a run directory as it was at one moment."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from engine.storage.backends import Digest
from engine.storage.errors import ObjectBroken
from engine.storage.session import Session
from engine.storage.store import Store
from engine.storage.trees import Tree, object_name, tree_as_json, tree_from_json

VERSION = 1


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
        # Names become paths of this machine: trees check theirs, and these are checked likewise.
        tree_from_json({name: [0, ""] for name in [*grown, *data["trees"]]})
        return cls(
            generation=int(data["generation"]),
            number=int(data["number"]),
            grown=grown,
            trees={name: tree_from_json(tree) for name, tree in data["trees"].items()},
            files=tree_from_json(data["files"]),
            saves=int(data["saves"]),
            ended=bool(data["ended"]),
        )


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
