"""One train as the recipe sees it: what to train, where to write, and whether to stop."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from engine.contract.rundir import (
    CHECKPOINTS,
    EventWriter,
    Spec,
    all_events,
    checkpoint_is_whole,
    checkpoint_step,
    checkpoints,
    stop_requested,
)
from engine.distributed.ranks import ALONE, Ranks
from engine.messages.failures import Stopped, TrainError
from engine.schema.train import TrainParameters


class NoEvents(EventWriter):
    """For all ranks but the first, which writes the events of all."""

    def write(self, kind: str, **values: Any) -> int:
        return self.seq


@dataclass
class Job:
    """`directory`: the run directory, the only place that is written to besides a dataset's
    cache. `ranks`: this process among those of the train. `place`: what is reported of the device
    besides, on a cluster. `saved`: is called by all ranks with each checkpoint's folder before that
    is sealed."""

    directory: Path
    spec: Spec
    parameters: TrainParameters
    events: EventWriter
    warned: set[str] = field(default_factory=set)
    terminated: bool = False
    began: float = field(default_factory=lambda: time.monotonic())
    ranks: Ranks = ALONE
    place: dict[str, Any] = field(default_factory=dict)
    saved: Callable[[Path], None] | None = None

    def on_rank(self, ranks: Ranks) -> Job:
        """The same train as one of its ranks sees it."""
        events = self.events if ranks.is_first else NoEvents(self.directory)
        return replace(self, ranks=ranks, events=events)

    @property
    def checkpoints(self) -> Path:
        return self.directory / CHECKPOINTS

    def say(self, text: str) -> None:
        """One line of the log, for people."""
        print(f"[{_clock(time.monotonic() - self.began)}] {text}", flush=True)

    def phase(self, name: str) -> None:
        self.events.write("phase", name=name)

    def warn(self, code: str, message: str) -> None:
        """Warn once for each code."""
        if code in self.warned:
            return

        self.warned.add(code)
        self.events.write("warning", code=code, message=message)
        self.say(f"Warning: {message}")

    def emit(self, kind: str, **values: Any) -> None:
        self.events.write(kind, **values)

    @property
    def stopping(self) -> bool:
        return self.terminated or stop_requested(self.directory)

    @property
    def overtime(self) -> bool:
        limit = self.parameters.time_limit_minutes
        if limit is None:
            return False

        return time.monotonic() - self.began > 60 * limit

    def stop_check(self) -> None:
        """Raises Stopped where a stop was asked for: to be called where nothing is lost by leaving at
        once. Of several ranks the first one leaves, and the others are ended."""
        if self.ranks.is_first and self.stopping:
            raise Stopped

    def stop_check_together(self) -> None:
        """As stop_check, where all ranks come by: all of them leave, or none."""
        (is_stopping,) = self.ranks.any_of(self.stopping)
        if is_stopping:
            raise Stopped

    def resume_checkpoint(self) -> str | None:
        """The checkpoint to resume from, None for a fresh start. Raises TrainError for one that is
        not whole, which must not be learned from."""
        if self.spec.resume_from is None:
            return None

        folder = Path(self.spec.resume_from)
        if not checkpoint_is_whole(folder):
            raise TrainError(
                "bad_checkpoint",
                f"The checkpoint {folder.name} is gone or not whole.",
                "Resume from an earlier checkpoint, or start the train again.",
            )

        self.say(f"resuming from {folder.name}")
        return str(folder)

    def branch_weights(self) -> str | None:
        """The folder of weights that a branch starts from, None for a train that is no branch.
        Raises TrainError for one that is not whole."""
        branch = self.spec.branch
        if branch is None:
            return None

        if not checkpoint_is_whole(Path(branch.path)):
            raise TrainError(
                "bad_checkpoint",
                f"The weights of train {branch.run_id} at step {branch.step:,} are gone or not "
                "whole.",
                "Branch from another checkpoint, or copy the train to begin with the base model.",
            )

        self.say(f"starting from the weights of train {branch.run_id} at step {branch.step:,}")
        return branch.path

    def adapter_to_carry_on(self) -> Path | None:
        """The folder of the adapter that the train carries on, None for a train with a new one.
        Raises TrainError for one that is not whole."""
        start = self.spec.start_adapter
        if start is None:
            return None

        if not checkpoint_is_whole(Path(start.path)):
            raise TrainError(
                "bad_adapter",
                f"The copy of the adapter of {start.model_name} in the train's folder is gone or "
                "not whole.",
                "Copy the train: the new one takes the adapter anew.",
            )

        self.say(f"carrying the adapter of {start.model_name} on")
        return Path(start.path)

    @property
    def resumed_step(self) -> int:
        """The step after which this attempt resumes; 0 for one that starts from the beginning."""
        if not self.spec.resume_from:
            return 0

        return checkpoint_step(Path(self.spec.resume_from))

    def earlier_precision(self, kind: str) -> str | None:
        """The precision of the attempt that this one resumes, where that ran on a device of this
        kind: "auto" may choose another one today, and the curve would have a break."""
        if not self.resumed_step:
            return None

        started = [event for event in all_events(self.directory) if event["type"] == "started"]
        if not started:
            return None

        device = started[-1].get("device", {})
        return started[-1].get("precision") if device.get("kind") == kind else None

    def rewind(self) -> None:
        """Remove the checkpoints of an earlier attempt beyond the step that this one resumes
        from."""
        if self.spec.attempt == 1 or not self.ranks.is_first:
            return

        for step, folder in checkpoints(self.directory):
            if step > self.resumed_step:
                shutil.rmtree(folder, ignore_errors=True)

    def handle_signals(self) -> None:
        """Handle SIGTERM: the first one asks for a stop, as the stop file does; a second one ends
        the process, and where there are several ranks theirs, which started them. One that was held
        back until now counts."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
        # A rank hears it twice where it was sent to all processes: from the one that started the
        # ranks too, at whose end the kernel ends them.
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self.ranks.are_several else signal.SIG_DFL)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
