"""What a train makes, from the run directory of the node that writes it to the storage, while it is
trained in.

A checkpoint or the model is put before the events that tell of it, and the state that names both
comes last. What the storage did not take now is put in the next round: a storage that is away holds
nobody up."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from engine.contract.rundir import (
    CHECKPOINTS,
    EVENTS,
    HELD_OUT,
    LOG,
    MANIFEST,
    MODEL,
    SAVE,
    all_events,
    checkpoints,
    save_request,
    stop_request,
    stop_requested,
)
from engine.storage.backends import Digest
from engine.storage.download import Downloader
from engine.storage.errors import ObjectMissing, Overtaken
from engine.storage.repeating import Repeating, keep_trying
from engine.storage.session import SESSION, Live, Session, live_read
from engine.storage.state import FOLDERS, RANK_LOGS, State, state_read, state_write
from engine.storage.store import FileChanged, Store
from engine.storage.trees import (
    Sums,
    Tree,
    object_name,
    sealed_tree,
    tree_of,
    tree_put,
)

PAUSE_SECONDS = 2.0
# How long a request may take that is repeated anyway.
BRIEF_SECONDS = 5.0
# How long a process that was killed may take to be gone.
LOCK_SECONDS = 15.0
# How long the end of a train waits for a storage that is away.
LAST_PATIENCE_SECONDS = 600.0
LARGEST_PIECE = 4 << 20
LONGEST_LINE = 32 << 20
# Pieces of a growing file that are smaller than that are put together once there are so many.
SMALL_PIECE = 256 << 10
MOST_SMALL_PIECES = 32
# Logs of ranks are for people who look for a cause, and grow with every line.
RANK_LOG_SECONDS = 30.0
# They tell of folders that must be there before.
TELL_OF_FOLDERS = frozenset({"checkpoint", "finished", "stopped", "failed"})

RESTORE_TRIES = 3

OWNER, LOCK = ".outputs", ".outputs.lock"
# On a node: the session of a run directory, and the address of the storage that has it.
NODE = ".session"


class OutputsPush:
    """What is put in one generation of a session. `skipped`: {folder: why it was left out so far}."""

    def __init__(self, store: Store, session: Session, directory: Path, state: State) -> None:
        self.store = store
        self.session = session
        self.directory = directory
        self.state = state
        self.skipped: dict[str, str] = {}
        self.sums = Sums()
        self.written = state.as_json()
        self.asked_for = state.saves
        self.rank_logs_put = 0.0
        self.lock = -1
        # Folders that were gone in the last round.
        self.missing: set[str] = set()
        # Of folders whose upload has begun, until a round has come to its end.
        self.begun: set[Digest] = set()
        # What no state refers to any more, to be deleted once that is written.
        self.dropped: set[Digest] = set()

        brief = store.with_patience(BRIEF_SECONDS)
        self.requests = Repeating(lambda: self.requests_take(brief), PAUSE_SECONDS, "requests")
        self.rounds = Repeating(self.round, PAUSE_SECONDS, "outputs")

    @classmethod
    def begin(cls, store: Store, session_name: str, directory: Path) -> OutputsPush:
        """Write this session from here on, and bring its run directory here: all that was put so far.
        Where this directory wrote it last (another process of this node did), it goes on with what
        is here. Raises StorageError, Overtaken where such a process still lives, and OSError."""
        session = Session(session_name)
        if (directory / SESSION).exists():
            raise ValueError(f"{directory} is the platform's own run directory.")

        directory.mkdir(parents=True, exist_ok=True)
        (directory / CHECKPOINTS).mkdir(exist_ok=True)
        _node_write(store, session, directory)
        lock = _lock(directory, session)

        try:
            live = live_read(store, session)
            state = _continued(store, session, directory, live)
            if state is None:
                state = _claimed(store, session, directory, live)
        except BaseException:
            os.close(lock)
            raise

        push = cls(store, session, directory, state)
        push.lock = lock
        return push

    def start(self) -> None:
        """Put what is new every PAUSE_SECONDS, from a thread, and take stop and save-now from the
        platform."""
        self.requests.start()
        self.rounds.start()

    @property
    def trouble(self) -> str:
        """Why the last round failed; "" where it did not."""
        return self.rounds.trouble or self.requests.trouble

    @property
    def is_overtaken(self) -> bool:
        return self.rounds.is_over or self.requests.is_over

    def close(self, patience: float = LAST_PATIENCE_SECONDS, *, ended: bool = True) -> None:
        """Put the rest. ended: nothing more comes in this session. Raises what still stands against
        it after `patience` seconds."""
        self.requests.end()
        self.rounds.end()

        def last_round() -> None:
            self.rank_logs_put = 0.0
            self.missing = set(self.state.trees)
            self.round()
            # Not before all of it is there.
            self.state.ended = ended
            self._write()

        try:
            keep_trying(last_round, patience)
        finally:
            if self.lock >= 0:
                os.close(self.lock)
                self.lock = -1

    def round(self) -> None:
        """Put what is new once. Raises StorageError, and OSError for a file that cannot be read."""
        self._check_mine()
        # Whatever these events tell of is there before them, and so is seen below.
        events_end = _size(self.directory / EVENTS)

        self._grow_all(events_end, holds=True)
        self._write()
        self._folders()
        self._files()
        self._grow_all(events_end, holds=False)
        self._write()

    def requests_take(self, store: Store) -> None:
        """Hand stop and save-now to the engine. Raises StorageError."""
        live = self._check_mine(store)
        if live.stops and not stop_requested(self.directory):
            stop_request(self.directory)

        if live.saves > self.asked_for:
            save_request(self.directory)
            self.asked_for = live.saves

    def _check_mine(self, store: Store | None = None) -> Live:
        """Raises Overtaken where another one writes, or nobody wants to know any more."""
        try:
            live = live_read(store or self.store, self.session)
        except ObjectMissing as error:
            raise Overtaken(self.session.name) from error

        if live.generation != self.state.generation:
            raise Overtaken(self.session.name)

        return live

    def _write(self) -> None:
        """Write the state, if there is something new in it, and delete what it no longer needs."""
        if not (self.directory / SAVE).exists():
            # The engine takes the file away.
            self.state.saves = self.asked_for

        if self.state.as_json() == self.written:
            return

        self._check_mine()
        state_write(self.store, self.session, self.state)
        self.written = self.state.as_json()

        needed = self.state.objects()
        for digest in self.dropped - needed:
            self.store.delete(object_name(self.session.objects, digest))

        self.dropped.clear()

    def _grow_all(self, events_end: int, *, holds: bool) -> None:
        self._grow(LOG, _size(self.directory / LOG))
        self._grow(EVENTS, events_end, holds=holds)

    def _grow(self, name: str, end: int, *, holds: bool = False) -> None:
        """Put what a file has grown by, up to byte `end`. holds: of events, only those before one that
        tells of a folder."""
        path = self.directory / name
        if end < self.state.length(name):
            if name == EVENTS:
                raise OSError(5, "The events have become fewer", str(path))

            self.dropped.update(self.state.grown.pop(name, []))

        for content, is_last in _pieces(path, self.state.length(name), end, name == EVENTS, holds):
            if not content:
                return

            piece = self._piece_put(content)
            self.state.grown.setdefault(name, []).append(piece)
            self._merge(name)
            if is_last:
                return

    def _piece_put(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        name = object_name(self.session.objects, digest)
        if self.store.digest(name) != digest:
            self.store.put_bytes(content, name)

        return digest

    def _merge(self, name: str) -> None:
        """Put the last small pieces together: a train of days is not to leave a million objects."""
        pieces = self.state.grown[name]
        small = 0
        while small < len(pieces) and pieces[-1 - small].size < SMALL_PIECE:
            small += 1

        if small < MOST_SMALL_PIECES:
            return

        kept, merged = pieces[:-small], pieces[-small:]
        begin = sum(piece.size for piece in kept)
        with (self.directory / name).open("rb") as stream:
            stream.seek(begin)
            content = stream.read(sum(piece.size for piece in merged))

        self.state.grown[name] = [*kept, self._piece_put(content)]
        self.dropped.update(merged)

    def _folders(self, left_out: str = "") -> None:
        """Put the folders that are whole, but for the one that is left out."""
        found = {}
        for name, folder in self._folders_here(left_out):
            try:
                tree = self._tree(folder)
                if tree and self.state.trees.get(name) != tree:
                    self.begun.update(tree.values())
                    tree_put(self.store, folder, tree, self.session.objects)
            except (FileNotFoundError, FileChanged) as error:
                # The engine has pruned or replaced it meanwhile.
                self.skipped[name] = str(error)
                continue

            if tree:
                found[name] = tree
                self.skipped.pop(name, None)

        missing = self.state.trees.keys() - found.keys()
        for name in missing - self.missing:
            # The event that tells of it may have come since the events were looked at, and comes
            # first also here.
            found[name] = self.state.trees[name]

        self.missing = missing
        # Nothing refers to those of a folder that was pruned meanwhile. Where the storage went away this
        # is not reached, and the next round goes on with what is there.
        self.dropped |= self.begun
        self.begun = set()
        for name, tree in self.state.trees.items():
            if found.get(name) != tree:
                self.dropped.update(tree.values())

        self.state.trees = found

    def _folders_here(self, left_out: str) -> Iterator[tuple[str, Path]]:
        """The newest checkpoint comes before the others: where one takes longer than the engine keeps
        it, each of them would else be gone before it is there."""
        yield from ((name, self.directory / name) for name in FOLDERS if name != left_out)
        for _, folder in checkpoints(self.directory):
            yield f"{CHECKPOINTS}/{folder.name}", folder

    def _tree(self, folder: Path) -> Tree:
        """{} for a folder that is not there or not sealed."""
        if folder.name != MODEL:
            return sealed_tree(folder) if (folder / MANIFEST).is_file() else {}

        return tree_of(folder, self.sums) if folder.is_dir() else {}

    def _files(self) -> None:
        """Files that are written anew: which rows are held out, and, now and then, logs of ranks."""
        is_due = time.monotonic() - self.rank_logs_put >= RANK_LOG_SECONDS
        found = {}

        for path in [self.directory / HELD_OUT, *sorted(self.directory.glob(RANK_LOGS))]:
            name = path.name
            if not path.is_file():
                continue
            if name != HELD_OUT and not is_due and name in self.state.files:
                found[name] = self.state.files[name]
                continue

            try:
                digest = self.sums.digest(path)
                tree_put(self.store, self.directory, {name: digest}, self.session.objects)
                found[name] = digest
            except (FileNotFoundError, FileChanged):
                # Removed, or written to: the next round sees it as it is then.
                if name in self.state.files and path.exists():
                    found[name] = self.state.files[name]

        if is_due:
            self.rank_logs_put = time.monotonic()

        self.dropped.update(set(self.state.files.values()) - set(found.values()))
        self.state.files = found


def node_clear(store: Store, folder: Path) -> list[str]:
    """Remove the run directories in `folder` on a node whose sessions the platform has cleared away:
    of trains that have ended. Those of another storage stay: a node may work for several platforms.
    Returns their names. Raises StorageError."""
    removed = []
    for directory in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            name, _, address = (directory / NODE).read_text().partition("\n")
            if address != store.address:
                continue

            live_read(store, Session(name))
        except (OSError, ValueError):
            # None of ours.
            continue
        except ObjectMissing:
            shutil.rmtree(directory, ignore_errors=True)
            removed.append(directory.name)

    return removed


def _node_write(store: Store, session: Session, directory: Path) -> None:
    (directory / NODE).write_text(f"{session.name}\n{store.address}")


def first_state(store: Store, session: Session, directory: Path) -> State:
    """Put what an earlier attempt left in the platform's run directory, as generation 0: what the
    nodes begin with. Its log and its model are of no use to them."""
    push = OutputsPush(store, session, directory, State(0))
    store.put_bytes(b"", session.generation(0))
    push._grow(EVENTS, _size(directory / EVENTS))
    push._folders(left_out=MODEL)
    push._files()
    state_write(store, session, push.state)
    return push.state


def state_newest(store: Store, session: Session, generation: int) -> State:
    """Of this generation, or of the last one before it that has written one. Raises StorageError."""
    while True:
        try:
            return state_read(store, session, generation)
        except ObjectMissing:
            if generation <= 0:
                raise

        generation -= 1


def outputs_restore(store: Store, session_name: str, directory: Path) -> None:
    """Bring checkpoints and weights to begin with into the run directory of a node that writes nothing
    back, as they are in the newest state. Raises StorageError, and OSError where the disk is full."""
    session = Session(session_name)
    (directory / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    _node_write(store, session, directory)
    state = state_newest(store, session, live_read(store, session).generation)
    Downloader(store, session, directory).download(state, grown=False)


def _continued(store: Store, session: Session, directory: Path, live: Live) -> State | None:
    """The state that this directory wrote last, None where it did not, or has lost some of it since."""
    try:
        mine = (directory / OWNER).read_text()
    except OSError:
        return None

    if store.get_bytes(session.generation(live.generation)).decode() != mine:
        return None

    state = state_read(store, session, live.generation)
    if not all(_has(directory / name, pieces) for name, pieces in state.grown.items()):
        return None

    return state


def _has(path: Path, pieces: list[Digest]) -> bool:
    """Whether a file begins with them. After a power loss it may be shorter, or have zeros in it."""
    try:
        with path.open("rb") as stream:
            return all(Digest.of(stream.read(piece.size)) == piece for piece in pieces)
    except FileNotFoundError:
        return not pieces


def _claimed(store: Store, session: Session, directory: Path, live: Live) -> State:
    """Begin a generation with what the one before has put. It is claimed first: from then on what
    the earlier one writes is read by nobody."""
    generation, owner = live.generation + 1, uuid.uuid4().hex
    claim = session.generation(generation)
    store.put_bytes(owner.encode(), claim)

    state = _restored(store, session, directory, live.generation)

    if store.get_bytes(claim).decode() != owner:
        raise Overtaken(session.name)

    state.generation, state.number, state.ended = generation, 0, False
    state_write(store, session, state)
    temporary = directory / f"{OWNER}.tmp"
    temporary.write_text(owner)
    temporary.replace(directory / OWNER)
    return state


def _restored(store: Store, session: Session, directory: Path, generation: int) -> State:
    """Bring what was put until now. What this directory holds of events and logs may be of a
    generation that was overtaken."""
    for path in (directory / EVENTS, directory / LOG):
        path.unlink(missing_ok=True)

    downloader = Downloader(store, session, directory)
    for left in reversed(range(RESTORE_TRIES)):
        state = state_newest(store, session, generation)
        try:
            downloader.download(state)
            break
        except ObjectMissing:
            # The earlier one was about to delete a checkpoint, and writes its last state.
            if not left:
                raise

        time.sleep(1)

    _prune(directory, state)
    return state


def _prune(directory: Path, state: State) -> None:
    """Remove the checkpoints that the earlier one has told to be pruned: their folders leave the state
    after the event."""
    pruned: set[int] = set()
    for event in all_events(directory):
        if event["type"] == "checkpoint":
            pruned.discard(event.get("step", 0))
            pruned.update(event.get("pruned", []))

    for step, folder in checkpoints(directory):
        if step in pruned:
            shutil.rmtree(folder)
            del state.trees[f"{CHECKPOINTS}/{folder.name}"]


def _lock(directory: Path, session: Session) -> int:
    """Held by the one process that puts from this directory; one that is about to end is waited for.
    Raises Overtaken."""
    descriptor = os.open(directory / LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS

    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise Overtaken(session.name) from error

        time.sleep(0.1)


def _pieces(
    path: Path, begin: int, end: int, whole_lines: bool, holds: bool
) -> Iterator[tuple[bytes, bool]]:
    """(content, whether it is the last) from byte `begin` to `end`, whole lines where asked for."""
    if begin >= end:
        return

    with path.open("rb") as stream:
        stream.seek(begin)
        while begin < end:
            content = stream.read(min(LARGEST_PIECE, end - begin))
            is_held = False

            if whole_lines:
                if b"\n" not in content:
                    content += stream.readline(LONGEST_LINE)

                content = content[: content.rfind(b"\n") + 1]
                if holds:
                    kept = _before_folders(content)
                    is_held, content = len(kept) < len(content), kept

            if not content:
                return

            begin += len(content)
            stream.seek(begin)
            yield content, is_held


def _before_folders(content: bytes) -> bytes:
    """The lines before the first event that tells of a folder."""
    length = 0
    for line in content.splitlines(keepends=True):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None

        if isinstance(event, dict) and event.get("type") in TELL_OF_FOLDERS:
            break

        length += len(line)

    return content[:length]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
