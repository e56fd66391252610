"""One attempt of a train in the storage: the names of what belongs to it, and who writes it.

    runs/12/2-4f1c0a9e…/             attempt 2 of train 12; the rest says whose it is, and tells it
                                     from all others
        inputs.json                  what it needs (engine.storage.inputs)
        state-0000.json              what the run directory holds, as generation 0 wrote it
        objects/SHA256               files, and pieces of the files that grow
        live/generation-0000         the platform, before the train began
        live/generation-0001         the node that writes; a later one has a greater number
        live/stop, live/save-0001    what the platform asks for

Only the newest generation counts. A node that was cut off and goes on writing does so into its own
state, which nobody reads any more, until it sees that there is a newer one."""

from __future__ import annotations

import os
import re
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.storage.errors import ObjectMissing
from engine.storage.store import Store

# In the platform's run directory: the session of its last attempt.
SESSION = ".session.json"
GENERATION, SAVE, STOP = "generation-", "save-", "stop"


# A train's id, and which of its attempts.
Attempt = tuple[int, int]
# Beside the run directories: who puts sessions, where several platforms share a storage.
OWNER = ".storage-owner"
NAME = re.compile(r"runs/([0-9]+)/([0-9]+)-([0-9a-f]{8})[0-9a-f]{12}")


@dataclass(frozen=True)
class Session:
    """`name`: its folder in the storage."""

    name: str

    @property
    def attempt(self) -> Attempt:
        return int(self._parts[1]), int(self._parts[2])

    @property
    def owner(self) -> str:
        return self._parts[3]

    @property
    def _parts(self) -> re.Match[str]:
        """Raises ValueError for another name than `new` makes."""
        match = NAME.fullmatch(self.name)
        if match is None:
            raise ValueError(f"{self.name!r} is no session.")

        return match

    @classmethod
    def new(cls, run_id: int, attempt: int, owner: str) -> Session:
        return cls(f"runs/{run_id}/{attempt}-{owner}{uuid.uuid4().hex[:12]}")

    @property
    def objects(self) -> str:
        return f"{self.name}/objects"

    @property
    def inputs(self) -> str:
        return f"{self.name}/inputs.json"

    def state(self, generation: int) -> str:
        return f"{self.name}/state-{generation:04}.json"

    def generation(self, number: int) -> str:
        return f"{self.name}/live/{GENERATION}{number:04}"

    def save(self, number: int) -> str:
        return f"{self.name}/live/{SAVE}{number:04}"

    @property
    def stop(self) -> str:
        return f"{self.name}/live/{STOP}"


@dataclass(frozen=True)
class Live:
    """`generation`: the newest. `stops`: whether a stop is asked for. `saves`: how often a
    checkpoint was asked for."""

    generation: int
    stops: bool
    saves: int


def live_read(store: Store, session: Session) -> Live:
    """Raises ObjectMissing for a session that was cleared away, and other StorageErrors."""
    names = [name.rpartition("/")[2] for name in store.list(f"{session.name}/live")]
    generations = _numbers(names, GENERATION)
    if not generations:
        raise ObjectMissing(store.address, session.name)

    return Live(max(generations), STOP in names, max(_numbers(names, SAVE), default=0))


def _numbers(names: list[str], prefix: str) -> list[int]:
    ends = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [int(end) for end in ends if end.isdigit()]


def owner_of(runs: Path) -> str:
    """What tells the platform of this folder of run directories from all others: eight hexadecimal
    digits, which are drawn once.

    A copy of the folder, as of a backup or on a test machine, draws its own: else it would take the
    sessions of the original for its own, and clear them away."""
    path = runs / OWNER
    if (owner := _owner_read(path)) is not None:
        return owner

    runs.mkdir(parents=True, exist_ok=True)
    owner = uuid.uuid4().hex[:8]
    drawn = runs / f"{OWNER}.{owner}.tmp"
    drawn.touch()
    # Both a link and a renamed file keep the inode.
    drawn.write_text(f"{owner} {drawn.stat().st_ino} {path.absolute()}")

    if not path.exists():
        # Whoever comes first decides. Some file systems have no links.
        with suppress(OSError):
            os.link(drawn, path)

    if _owner_read(path) is None:
        drawn.replace(path)

    drawn.unlink(missing_ok=True)
    return _owner_read(path) or owner


def _owner_read(path: Path) -> str | None:
    """None where there is no such file, or where it is the copy of another."""
    try:
        owner, inode, place = path.read_text().split(" ", 2)
        is_own = int(inode) == path.stat().st_ino and place == str(path.absolute())
    except (FileNotFoundError, ValueError):
        return None

    return owner if is_own else None


def sessions(store: Store) -> list[Session]:
    """All that the storage has something of, by name. Raises StorageError."""
    folders = {"/".join(name.split("/")[:3]) for name in store.list("runs")}
    return [Session(name) for name in sorted(folders) if NAME.fullmatch(name)]


def session_forget(store: Store, name: str) -> None:
    """Delete all that belongs to a session; inputs stay, which other trains use. Whoever still
    writes into it ends."""
    session = Session(name)
    store.delete_folder(f"{session.name}/live")
    store.delete_folder(session.name)
