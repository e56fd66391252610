"""What a train makes, from the storage into the run directory of the platform; and what the platform
asks for, to the node that trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from engine.contract.rundir import SAVE, stop_requested
from engine.storage.backends import Digest
from engine.storage.download import Downloader
from engine.storage.errors import ObjectMissing
from engine.storage.push import BRIEF_SECONDS, PAUSE_SECONDS
from engine.storage.repeating import Repeating
from engine.storage.session import Live, Session, live_read
from engine.storage.state import State, state_read
from engine.storage.store import Store


class OutputsPull:
    """`log`: is given what the train's log on the node grows by; None: it is train.log here too.
    `ended`: all that the train made is here, and nothing more comes."""

    def __init__(
        self,
        store: Store,
        session_name: str,
        directory: Path,
        log: Callable[[bytes], None] | None = None,
    ) -> None:
        self.store = store
        self.session = Session(session_name)
        self.directory = directory
        self.ended = False
        self.downloader = Downloader(store, self.session, directory, log)
        self.seen: tuple[int, Digest | None] = (0, None)
        self.newest = (0, 0)
        self.saves_taken = 0
        self.save_asked = 0

        brief = store.with_patience(BRIEF_SECONDS)
        self.requests = Repeating(lambda: self.requests_pass(brief), PAUSE_SECONDS, "requests")
        self.rounds = Repeating(self.round, PAUSE_SECONDS, "outputs")

    def start(self) -> None:
        """Bring what is new every PAUSE_SECONDS, from a thread, and pass stop and save-now on."""
        self.requests.start()
        self.rounds.start()

    @property
    def trouble(self) -> str:
        """Why the last round failed; "" where it did not."""
        return self.rounds.trouble or self.requests.trouble

    def close(self) -> None:
        self.requests.end()
        self.rounds.end()

    def finish(self, patience: float, is_over: Callable[[], bool] = lambda: True) -> bool:
        """Bring the rest, after the job has ended; for at most `patience` seconds while the storage
        is away or the node still puts. is_over: whether no node can put any more. Returns whether all
        that the train made is here; raises what stood against it at the end."""
        self.close()
        deadline = time.monotonic() + patience

        while True:
            was_over = is_over()
            error: Exception | None = None
            try:
                self.round(is_over=was_over)
            except Exception as caught:
                error = caught

            if self.ended or (was_over and error is None):
                return self.ended
            if time.monotonic() >= deadline:
                if error is not None:
                    raise error

                return False

            time.sleep(PAUSE_SECONDS / 4)

    def round(self, *, is_over: bool = False) -> bool:
        """Bring what is new once. is_over: nobody writes any more. Returns whether there was
        something. Raises StorageError, and OSError where this machine's disk is full."""
        found = self._new_state(is_over)
        if found is None:
            return False

        state, digest = found
        self.downloader.download(state)
        self.seen = (state.generation, digest)
        self.newest = (state.generation, state.number)
        self.saves_taken = max(self.saves_taken, state.saves)
        self.ended = state.ended
        return True

    def _new_state(self, is_over: bool) -> tuple[State, Digest] | None:
        """The newest state and the digest of its document, None where it is known."""
        live = live_read(self.store, self.session)
        if not live.generation:
            # What was here before.
            return None

        generation = live.generation
        digest = self.store.digest(self.session.state(generation))
        while is_over and digest is None and generation > 1:
            # A node that died before its first state: the one before it has written the last.
            generation -= 1
            digest = self.store.digest(self.session.state(generation))

        if digest is None or self.seen == (generation, digest):
            return None

        try:
            state = state_read(self.store, self.session, generation)
        except ObjectMissing:
            return None

        # A node that took over meanwhile began with a state at least as new as this one, if it was
        # written before; what is written after that does not count.
        if live_read(self.store, self.session).generation != live.generation:
            return None
        # A write that was held up on its way, and came after a later one.
        if (state.generation, state.number) <= self.newest:
            return None

        return state, digest

    def requests_pass(self, store: Store) -> None:
        """Pass stop and save-now on to the node. Raises StorageError."""
        live = live_read(store, self.session)
        if stop_requested(self.directory) and not live.stops:
            store.put_bytes(b"", self.session.stop)

        self._save_pass(store, live)

    def _save_pass(self, store: Store, live: Live) -> None:
        """The request is taken away here when the engine has taken it there."""
        path = self.directory / SAVE
        if not path.exists():
            self.save_asked = 0
            return

        if self.save_asked and self.saves_taken >= self.save_asked:
            path.unlink(missing_ok=True)
            self.save_asked = 0
        elif not self.save_asked:
            self.save_asked = live.saves + 1 if live.saves <= self.saves_taken else live.saves
            if self.save_asked > live.saves:
                store.put_bytes(b"", self.session.save(self.save_asked))
