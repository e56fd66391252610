"""Folders in the storage: {name within the folder: digest}, and each file once, under its SHA-256.

So a name may be whatever a file system allows, a file that two folders share is sent once, and what
is there already is not sent again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from engine.contract.rundir import MANIFEST, checkpoint_manifest
from engine.storage.backends import Digest
from engine.storage.store import Store

Tree = dict[str, Digest]

# Files of one folder that are on their way at once; store and disk are shared with others.
TRANSFERS_AT_ONCE = 4
MOST_SUMS = 20_000


# Beside the run directories: digests of files that were read.
SUMS = ".storage-sums.json"


class Sums:
    """Digests of files that were read before, by path, size, time and inode, so that a large base
    model is not read again for each train. Kept in the file `path`; None: not kept."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.known: dict[str, list[Any]] = {}
        # Since the file was read.
        self._added: dict[str, list[Any]] = {}
        self._dropped: dict[str, list[Any]] = {}
        if path is not None:
            self.known = _stored(path)

    def digest(self, path: Path) -> Digest:
        identity = _identity(path)
        if identity is None:
            raise FileNotFoundError(2, "No such file", str(path))

        key = str(path.absolute())

        known = self.known.get(key)
        if not isinstance(known, list) or known[:3] != identity or len(known) != 4:
            if isinstance(known, list):
                # What it held before is gone: nothing lies below a file.
                self._add(f"{key}/{known[-1]}", known)

            known = [*identity, Digest.of(path).sha256]

        self._add(key, known)
        return Digest(identity[0], known[3])

    def _add(self, key: str, entry: list[Any]) -> None:
        """As the newest."""
        for entries in (self.known, self._added):
            entries.pop(key, None)
            entries[key] = entry

    def gone(self) -> set[Digest]:
        """Of what no file holds any more: those that it was read from were deleted or changed."""
        here: set[Digest] = set()
        gone: set[Digest] = set()
        for name, known in self.known.items():
            with contextlib.suppress(ValueError, TypeError):
                *identity, sha256 = known
                is_here = _identity(Path(name)) == identity
                (here if is_here else gone).add(Digest(identity[0], sha256))

        return gone - here

    def drop(self, gone: Set[Digest]) -> None:
        """Forget these, which `gone` has named."""
        names = {digest.sha256 for digest in gone}
        for key, known in list(self.known.items()):
            if known[-1:] and known[-1] in names:
                self._dropped[key] = self.known.pop(key)

    def keep(self) -> None:
        """The newest of them, with those that others have kept meanwhile. What cannot be written is
        computed again."""
        if self.path is None:
            return

        with contextlib.suppress(OSError), _locked(self.path):
            stored = _stored(self.path)
            for key, entry in self._dropped.items():
                # Another process may have read the file anew.
                if stored.get(key) == entry:
                    del stored[key]

            for key, entry in self._added.items():
                stored.pop(key, None)
                stored[key] = entry

            newest = dict(list(stored.items())[-MOST_SUMS:])
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(newest))
            temporary.replace(self.path)


def _stored(path: Path) -> dict[str, list[Any]]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text()))

    return {}


def _identity(path: Path) -> list[int] | None:
    """Size, time and inode of a file; None where it is gone."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None

    return [found.st_size, found.st_mtime_ns, found.st_ino]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tree_of(folder: Path, sums: Sums | None = None) -> Tree:
    """Of all files below `folder`; of links to files what they lead to. Raises FileNotFoundError
    where it is gone."""
    sums = sums or Sums()
    if not folder.is_dir():
        raise FileNotFoundError(2, "No such folder", str(folder))

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sums.digest(path) for path in files}


def sealed_tree(folder: Path) -> Tree:
    """Of a sealed folder, as its manifest says; {} where it has none."""
    manifest = checkpoint_manifest(folder)
    try:
        tree = {name: Digest(entry["size"], entry["sha256"]) for name, entry in manifest.items()}
        return tree | {MANIFEST: Digest.of(folder / MANIFEST)} if tree else {}
    except (KeyError, TypeError, FileNotFoundError):
        return {}


def tree_size(tree: Tree) -> int:
    return sum(digest.size for digest in tree.values())


def tree_is_there(folder: Path, tree: Tree) -> bool:
    """Whether the folder has all these files, by their sizes, and no others."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found == set(tree) and all(
        (folder / name).stat().st_size == digest.size for name, digest in tree.items()
    )


def tree_put(store: Store, folder: Path, tree: Tree, objects: str) -> None:
    """Put the files of `folder` below `objects` that are not there. Raises StorageError, and OSError
    for a file that cannot be read or changes meanwhile."""
    wanted = {digest: folder / name for name, digest in tree.items()}

    def put(digest: Digest) -> None:
        name = object_name(objects, digest)
        if store.digest(name) != digest:
            store.put_file(wanted[digest], name, digest)

    _at_once(put, wanted)


def tree_fetch(store: Store, tree: Tree, objects: str, folder: Path) -> None:
    """Fetch the files into `folder`, which is made, and remove those that are none of them. Files
    that an earlier try has fetched stay. Raises StorageError, and OSError where the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in tree:
            path.unlink()

    def fetch(name: str) -> None:
        digest = tree[_inside(name)]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or Digest.of(path) != digest:
            store.get_file(object_name(objects, digest), path, digest)

    _at_once(fetch, tree)


def object_name(objects: str, digest: Digest) -> str:
    return f"{objects}/{digest.sha256}"


def tree_as_json(tree: Tree) -> dict[str, list[Any]]:
    return {name: [digest.size, digest.sha256] for name, digest in tree.items()}


def tree_from_json(data: dict[str, list[Any]]) -> Tree:
    return {_inside(name): Digest(int(size), str(sha256)) for name, (size, sha256) in data.items()}


def _inside(name: str) -> str:
    """The name, where it leads to a file below its folder. Raises ValueError."""
    if not name or name.startswith("/") or ".." in Path(name).parts:
        raise ValueError(f"{name!r} is no name of a file in a folder.")

    return name


def _at_once(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Several at once. Raises the first error; what has not begun then is left out."""
    with ThreadPoolExecutor(TRANSFERS_AT_ONCE, thread_name_prefix="storage") as pool:
        pending = [pool.submit(work, item) for item in items]
        done, _ = wait(pending, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)

    for future in done:
        future.result()
