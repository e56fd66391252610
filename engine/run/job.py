"""One train as the recipe sees it: what to train, where to write, and whether to stop."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
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
from engine.messages.failures import Stopped, TrainError
from engine.schema.train import TrainParameters


@dataclass
class Job:
    """`directory` is the run directory, the only place that is written to besides a dataset's
    cache."""

    directory: Path
    spec: Spec
    parameters: TrainParameters
    events: EventWriter
    warned: set[str] = field(default_factory=set)
    terminated: bool = False
    began: float = field(default_factory=lambda: time.monotonic())

    @property
    def checkpoints(self) -> Path:
        return self.directory / CHECKPOINTS

    def say(self, text: str) -> None:
        """One line of the log, for people."""
        print(f"[{_clock(time.monotonic() - self.began)}] {text}", flush=True)

    def phase(self, name: str) -> None:
        self.events.write("phase", name=name)

    def warn(self, code: str, message: str) -> None:
        """Tell once for each code."""
        if code not in self.warned:
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
        return limit is not None and time.monotonic() - self.began > 60 * limit

    def stop_check(self) -> None:
        """Raises Stopped where somebody asked for it: for places where nothing is lost by leaving
        at once."""
        if self.stopping:
            raise Stopped

    def checkpoint_given(self) -> str | None:
        """The checkpoint to go on from. Raises TrainError for one that is not whole, which must not
        be learned from."""
        if self.spec.resume_from is None:
            return None

        folder = Path(self.spec.resume_from)
        if not checkpoint_is_whole(folder):
            raise TrainError(
                "bad_checkpoint",
                f"The checkpoint {folder.name} is gone or not whole.",
                "Resume from an earlier checkpoint, or start the train again.",
            )

        self.say(f"going on from {folder.name}")
        return str(folder)

    def branch_given(self) -> str | None:
        """The folder of weights to begin with. Raises TrainError for one that is not whole."""
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

        self.say(f"beginning with the weights of train {branch.run_id} at step {branch.step:,}")
        return branch.path

    @property
    def begins_at(self) -> int:
        """The step after which this attempt goes on; 0 for one that begins at the beginning."""
        return checkpoint_step(Path(self.spec.resume_from)) if self.spec.resume_from else 0

    def precision_before(self, kind: str) -> str | None:
        """What the attempt that this one goes on from computed in, on a device of the same kind:
        "auto" may choose otherwise today, and the curve would not go on as it was."""
        if not self.begins_at:
            return None

        started = [event for event in all_events(self.directory) if event["type"] == "started"]
        if not started or started[-1].get("device", {}).get("kind") != kind:
            return None

        return started[-1].get("precision")

    def rewind(self) -> None:
        """Remove what an earlier attempt kept beyond the step that this one goes on from."""
        if self.spec.attempt > 1:
            for step, folder in checkpoints(self.directory):
                if step > self.begins_at:
                    shutil.rmtree(folder, ignore_errors=True)

    def listen(self) -> None:
        """SIGTERM asks for a stop like the stop file does; a second one ends the process."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
