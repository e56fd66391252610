"""What a node has fetched: files and folders that several trains use, each under the hash of its
contents.

A node fetches an input once, however many ranks ask for it at once: one builds it, under a lock, and
the others wait. Whoever uses or builds an input holds a shared lock on it, which the kernel gives back
when the process dies; what nobody uses goes when room is needed, the oldest first."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.contract.rundir import folder_size
from engine.storage.store import Store
from engine.storage.trees import Tree, tree_as_json, tree_fetch, tree_is_there, tree_size

# Left free on the node's disk, for checkpoints.
RESERVE_BYTES = 1 << 30
ENTRIES, LOCKS, UNFINISHED = "entries", "locks", ".unfinished"
# The lock of who builds an entry.
BUILDING = ".building"
FILES, TOKENS = "files", "tokens"
# Its time is when the entry was last used.
USED = "used"


@dataclass(frozen=True)
class Entry:
    """`files`: the folder with what was fetched. `tokens`: for files that are made of it, which go
    when it goes."""

    files: Path
    tokens: Path


class Cache:
    """The folder `folder` of this node, which is made. limit_bytes: what is kept of what no train
    uses. Inputs stay until `close`, or the end of this process."""

    def __init__(
        self, folder: Path, limit_bytes: int, *, reserve_bytes: int = RESERVE_BYTES
    ) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.reserve_bytes = reserve_bytes
        self.held: list[int] = []

        for name in (ENTRIES, LOCKS):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def entry(self, store: Store, tree: Tree, objects: str) -> Entry:
        """The files of `tree` on this node, fetched where they are not there. Raises StorageError,
        and OSError where the disk has no room."""
        key = _key(tree)
        folder = self.folder / ENTRIES / key
        entry = Entry(folder / FILES, folder / TOKENS)

        # From here on nobody removes it. Who builds has a lock of its own: whoever waited for this one
        # to be free of all others would wait until their trains have ended.
        self.held.append(self._lock(key, fcntl.LOCK_SH))
        if not tree_is_there(entry.files, tree):
            with self._locked(f"{key}{BUILDING}"):
                # Another rank may have been faster.
                if not tree_is_there(entry.files, tree):
                    self._build(store, tree, objects, folder)

        (folder / USED).touch()
        return entry

    def close(self) -> None:
        """What was held may go from now on."""
        while self.held:
            os.close(self.held.pop())

    def _build(self, store: Store, tree: Tree, objects: str, folder: Path) -> None:
        self._make_room(tree_size(tree))
        # Under a name of its own: what an earlier try has fetched is not fetched again.
        unfinished = folder.with_name(folder.name + UNFINISHED)

        tree_fetch(store, tree, objects, unfinished / FILES)
        (unfinished / TOKENS).mkdir(exist_ok=True)
        (unfinished / USED).touch()
        # One that was damaged.
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)

    def _make_room(self, needed: int) -> None:
        """Raises OSError where the disk has no room even then."""
        with self._locked("room"):
            folders = list((self.folder / ENTRIES).iterdir())
            sizes = {folder: folder_size(folder) for folder in folders}
            total = sum(sizes.values())

            for folder in sorted(folders, key=_last_used):
                if total + needed <= self.limit_bytes and self._has_room(needed):
                    return
                if self._removed(folder):
                    total -= sizes[folder]

            if not self._has_room(needed):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def _has_room(self, needed: int) -> bool:
        return shutil.disk_usage(self.folder).free >= needed + self.reserve_bytes

    def _removed(self, folder: Path) -> bool:
        """Remove an entry that nobody uses or builds. Returns whether it did."""
        lock = self._lock(folder.name.removesuffix(UNFINISHED), fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock < 0:
            return False

        with _closing(lock):
            shutil.rmtree(folder, ignore_errors=True)

        return not folder.exists()

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with _closing(self._lock(name, fcntl.LOCK_EX)):
            yield

    def _lock(self, name: str, how: int) -> int:
        """The descriptor that holds the lock, -1 where another process has it. Its file stays: to
        remove it would let two hold the same lock."""
        path = self.folder / LOCKS / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            os.close(descriptor)
            return -1
        except BaseException:
            os.close(descriptor)
            raise

        return descriptor


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _key(tree: Tree) -> str:
    text = json.dumps(tree_as_json(tree), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _last_used(folder: Path) -> float:
    """0 for one that was never finished."""
    try:
        return (folder / USED).stat().st_mtime
    except OSError:
        return 0.0
