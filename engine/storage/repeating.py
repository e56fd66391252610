"""A thread that does the same again and again until it is told to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.messages.failures import explain
from engine.storage.errors import Overtaken


@dataclass
class Repeating:
    """Calls `work` every `pause` seconds. `trouble`: why the last call failed, "" where it did not;
    the next one may succeed, so that a storage that is away for a while, or a full disk on which room
    is made, costs nothing. `is_over`: `work` is of no use any more."""

    work: Callable[[], object]
    pause: float
    name: str
    trouble: str = ""
    is_over: bool = False
    _ends: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.wait(self.pause):
            self.once()
            if self.is_over:
                return

    def once(self) -> None:
        try:
            self.work()
            self.trouble = ""
        except Overtaken as error:
            self.trouble = error.message
            self.is_over = True
        except Exception as error:
            self.trouble = explain(error).message

    def end(self) -> None:
        """After the call that is under way, which may take as long as the store has patience."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def keep_trying(work: Callable[[], object], patience: float, pause: float = 1.0) -> None:
    """Call `work` until it succeeds. Raises what it raises when that has gone on for `patience`
    seconds, and Overtaken at once."""
    deadline = time.monotonic() + patience
    while True:
        try:
            work()
            return
        except Overtaken:
            raise
        except Exception:
            if time.monotonic() >= deadline:
                raise

        time.sleep(pause)
