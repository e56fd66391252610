"""A run directory made what a state of it in the storage says: on the platform while the train runs,
and on a node that goes on where another one was.

Folders appear whole, by a rename, before the events that tell of them. Files that grow are appended
to from where they are, so that it does not matter when this was interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from engine.contract.rundir import EVENTS, LOG, MANIFEST, checkpoints
from engine.storage.session import Session
from engine.storage.state import RANK_LOGS, State, piece_read
from engine.storage.store import Store
from engine.storage.trees import (
    Sums,
    Tree,
    sealed_tree,
    tree_fetch,
    tree_is_there,
    tree_of,
)

INCOMING = ".incoming"


class Downloader:
    """log: is given what the train's log grows by; None: it is the file train.log here too."""

    def __init__(
        self,
        store: Store,
        session: Session,
        directory: Path,
        log: Callable[[bytes], None] | None = None,
    ) -> None:
        self.store = store
        self.session = session
        self.directory = directory
        self.log = log
        self.logged = 0
        # In memory: a model that was brought is not read again at each look.
        self.sums = Sums()

    def download(self, state: State, *, grown: bool = True) -> None:
        """Raises StorageError, and OSError where this machine's disk is full. grown: events and log
        too."""
        for name, tree in state.trees.items():
            self._tree(name, tree)

        kept = {self.directory / name for name in state.trees}
        for _, folder in checkpoints(self.directory):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

        if grown:
            self._files(state)
            # The log first: it explains the events.
            for name in sorted(state.grown, key=lambda name: name == EVENTS):
                self._grow(state, name)

        shutil.rmtree(self.directory / INCOMING, ignore_errors=True)

    def _tree(self, name: str, tree: Tree) -> None:
        folder = self.directory / name
        if self._is_same(folder, tree):
            return

        incoming = self.directory / INCOMING / name.replace("/", "-")
        tree_fetch(self.store, tree, self.session.objects, incoming)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)

        incoming.rename(folder)

    def _is_same(self, folder: Path, tree: Tree) -> bool:
        if not folder.is_dir() or not tree_is_there(folder, tree):
            return False
        if MANIFEST in tree:
            # Put there by a rename, whole.
            return sealed_tree(folder) == tree

        return tree_of(folder, self.sums) == tree

    def _files(self, state: State) -> None:
        for path in self.directory.glob(RANK_LOGS):
            if path.name not in state.files:
                path.unlink(missing_ok=True)

        for name, digest in state.files.items():
            path = self.directory / name
            if not path.is_file() or self.sums.digest(path) != digest:
                self.store.get_file(f"{self.session.objects}/{digest.sha256}", path, digest)

    def _grow(self, state: State, name: str) -> None:
        """Append what is not here yet, piece by piece."""
        path = self.directory / name
        to_log = name == LOG and self.log is not None
        here = self.logged if to_log else _size(path)
        if here > state.length(name) and name != EVENTS:
            # The log was begun anew.
            here = 0
            if not to_log:
                os.truncate(path, 0)

        end = 0
        for piece in state.grown[name]:
            begin, end = end, end + piece.size
            if end <= here:
                continue

            content = piece_read(self.store, self.session, piece)[here - begin :]
            here = end
            if to_log and self.log is not None:
                self.log(content)
                self.logged = end
            else:
                _append(path, content)


def _append(path: Path, content: bytes) -> None:
    """Events are read by their whole lines: what a crash or a full disk leaves of a piece is
    continued."""
    with path.open("ab", buffering=0) as stream:
        view = memoryview(content)
        while view:
            view = view[stream.write(view) :]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
