"""Files and bytes under a name, each verified by size and SHA-256 when it is put and when it is
fetched.

Where the storage is away, a call tries again with growing pauses until its patience is over, and
then raises StorageAway. An object that is not whole is fetched again, and then refused."""

from __future__ import annotations

import copy
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.storage.backends import Away, Backend, Content, Digest, backend_of
from engine.storage.errors import (
    ObjectBroken,
    ObjectMissing,
    StorageAway,
    StorageRefused,
)
from engine.storage.settings import StorageSettings

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
# How often an object that is not whole is fetched before it is refused.
TRIES = 3
# What is read into memory at once.
LARGEST_READ = 64 << 20
# Names of files that people chose never are names of objects: folders are kept by their contents.
NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Store:
    """May be used by several threads, and is to be made in the process that uses it.

    patience: seconds for which a call tries again. `address`: for messages, without keys."""

    def __init__(self, settings: StorageSettings, *, patience: float = PATIENCE_SECONDS) -> None:
        self.settings = settings
        self.address = settings.address
        self.patience = patience
        self._backend: Backend = backend_of(settings)
        self._hurry = threading.Event()

    @classmethod
    def from_environment(cls, *, patience: float = PATIENCE_SECONDS) -> Store | None:
        """None where no storage is set. Raises StorageRefused for settings that cannot be read."""
        try:
            settings = StorageSettings.from_environment()
        except ValueError as error:
            raise StorageRefused("DEEPEXTENSION_STORAGE", f"cannot be used. {error}") from error

        return cls(settings, patience=patience) if settings is not None else None

    def with_patience(self, seconds: float) -> Store:
        """The same store, for calls that may try for so long."""
        other = copy.copy(self)
        other.patience = seconds
        return other

    def hurry(self) -> None:
        """From now on calls try once: somebody waits for the end of this process."""
        self._hurry.set()

    def check(self) -> None:
        """Raises StorageError where nothing can be put, fetched and deleted here."""
        name = f"checks/{uuid.uuid4().hex}"
        content = name.encode()
        self._tried(self._backend.check)

        try:
            self.put_bytes(content, name)
            self.get_bytes(name)
        finally:
            self.delete(name)

    def put_file(self, path: Path, name: str, digest: Digest | None = None) -> Digest:
        """Put the file there, also where there is one of this name. digest: where it is known.
        Raises StorageError, and FileChanged where the file changes meanwhile."""
        before = _identity(path)
        digest = digest or Digest.of(path)

        self._put(path, name, digest)
        if _identity(path) != before or before[0] != digest.size:
            self.delete(name)
            raise FileChanged(f"{path} has changed while it was sent.")

        return digest

    def put_bytes(self, content: bytes, name: str) -> Digest:
        digest = Digest.of(content)
        self._put(content, name, digest)
        return digest

    def _put(self, content: Content, name: str, digest: Digest) -> None:
        _name_check(name)

        def put() -> None:
            self._backend.put(content, name, digest)
            if self._backend.digest(name) != digest:
                raise Away("did not keep what it was given")

        self._tried(put)

    def get_file(self, name: str, path: Path, expected: Digest | None = None) -> Digest:
        """Fetch into the file `path`, which appears whole or not at all. Raises ObjectMissing,
        ObjectBroken and other StorageErrors, and OSError where this machine's disk is full."""
        temporary = path.with_name(f"fetched-{uuid.uuid4().hex}.tmp")

        def fetch(digest: Digest) -> str:
            self._backend.fetch(name, temporary, digest.size)
            found = Digest.of(temporary)
            if found != digest:
                temporary.unlink()
                return _difference(found, digest)

            temporary.replace(path)
            return ""

        try:
            return self._verified(name, expected, fetch)
        finally:
            temporary.unlink(missing_ok=True)

    def get_bytes(self, name: str, expected: Digest | None = None) -> bytes:
        """At most LARGEST_READ bytes; else as get_file."""
        content = b""

        def read(digest: Digest) -> str:
            nonlocal content
            if digest.size > LARGEST_READ:
                return f"it has {digest.size:,} bytes"

            content = self._backend.read(name, digest.size)
            found = Digest.of(content)
            return "" if found == digest else _difference(found, digest)

        self._verified(name, expected, read)
        return content

    def _verified(
        self, name: str, expected: Digest | None, fetch: Callable[[Digest], str]
    ) -> Digest:
        """Call `fetch` with what the object must be until it says "", that it is so. It says what is
        different otherwise."""
        _name_check(name)
        difference = ""

        for attempt in range(TRIES):
            if attempt:
                self._hurry.wait(FIRST_PAUSE_SECONDS * 2**attempt)

            try:
                digest = expected or self._tried(self._backend.digest, name)
                difference = self._tried(fetch, digest)
            except FileNotFoundError as error:
                raise ObjectMissing(self.address, name) from error

            if not difference:
                return digest

        raise ObjectBroken(self.address, name, difference)

    def digest(self, name: str) -> Digest | None:
        """Of what is there, as it was put; None where nothing is."""
        _name_check(name)
        try:
            return self._tried(self._backend.digest, name)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        return self.digest(name) is not None

    def list(self, folder: str) -> list[str]:
        """The names of all objects below `folder`, sorted."""
        _name_check(folder)
        return self._tried(lambda: sorted(self._backend.names(f"{folder}/")))

    def delete(self, name: str) -> None:
        """One that is not there is deleted already."""
        _name_check(name)
        self._tried(self._backend.delete, name)

    def delete_folder(self, folder: str) -> None:
        for name in self.list(folder):
            self.delete(name)

    def _tried(self, work: Callable[..., T], *values: object) -> T:
        """What `work` returns. Tries again while the storage is away; raises StorageAway when it has
        been for as long as there is patience. The first try does not count: a large file may take
        longer than that until the line breaks."""
        deadline, pause = None, FIRST_PAUSE_SECONDS

        while True:
            try:
                return work(*values)
            except Away as error:
                now = time.monotonic()
                if deadline is None or error.came_on:
                    deadline, pause = now + self.patience, FIRST_PAUSE_SECONDS

                left = deadline - now
                if self._hurry.is_set() or (left <= 0 and not error.came_on):
                    raise StorageAway(self.address, str(error)) from error

            # Many nodes that wait for the same server are not to come back together.
            self._hurry.wait(max(0, min(left, pause * random.uniform(0.5, 1.0))))  # noqa: S311 - no secret
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class FileChanged(OSError):
    """A file changed while it was sent; what was sent is removed."""


def _identity(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)  # noqa: PTH116 - Path.stat is the same, and this is read as one line
    return found.st_size, found.st_mtime_ns, found.st_ino


def _difference(found: Digest, expected: Digest) -> str:
    if found.size != expected.size:
        return f"{found.size:,} of {expected.size:,} bytes"
    if not expected.sha256:
        return "nobody has said what its SHA-256 is"

    return "its SHA-256 is another one"


def _name_check(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an object.")
