"""Machines share the folders of trains, and one of them is not heard of any more in the database.

It may be gone, or may only be cut off from the database and train on. Two must never write into one
train. So before the train goes on elsewhere a mark lies in its folder for a sixth of
HEARTBEAT_LIMIT_SECONDS, and whoever cannot reach the database looks for it there and gives up
within a quarter of that time."""

from __future__ import annotations

import contextlib
import json
import time

from django.conf import settings

from training.models import TrainRun

MARK = "unheard.json"


def patience_seconds() -> float:
    return float(settings.HEARTBEAT_LIMIT_SECONDS) / 6


def taken_for_gone(run: TrainRun) -> bool:
    """Whether the mark has lain there long enough for this attempt. Where there is none it is
    made."""
    now, marked = time.time(), _marked(run)
    # One from the future is of a clock that was set back since.
    if marked is not None and marked <= now:
        return now - marked >= patience_seconds()

    mark = run.directory / MARK
    try:
        mark.with_suffix(".tmp").write_text(json.dumps({"attempt": run.attempt, "time": now}))
        mark.with_suffix(".tmp").replace(mark)
    except FileNotFoundError:
        # Nobody trains in a folder that is not there.
        return True

    return False


def heard_of(run: TrainRun) -> None:
    """Take the mark away."""
    with contextlib.suppress(OSError):
        (run.directory / MARK).unlink(missing_ok=True)


class Silence:
    """Of one who cannot be heard: whether it has to give up."""

    def __init__(self) -> None:
        self.marked_since: float | None = None

    def ends_in_giving_up(self, run: TrainRun) -> bool:
        """To be asked again and again while the database is away. A mark that is there for a moment
        alone is of somebody who has only just reached the database again, as this one is about
        to."""
        if _marked(run) is None:
            self.marked_since = None
            return False

        now = time.monotonic()
        self.marked_since = now if self.marked_since is None else self.marked_since
        return now - self.marked_since >= patience_seconds() / 4


def _marked(run: TrainRun) -> float | None:
    """Unix seconds at which this attempt was marked."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        told = json.loads((run.directory / MARK).read_text())
        if told["attempt"] == run.attempt:
            return float(told["time"])

    return None
