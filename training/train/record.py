"""What is missing from a train's record: events that were lost before anybody stored them.

events.jsonl numbers its events, so a cut, a damaged or a removed file shows as numbers that are
missing. Where a later attempt begins behind the last step that was recorded, steps are missing too.
"""

from __future__ import annotations

from typing import Any, TypedDict

from engine.contract.rundir import EVENTS
from training.models import TrainRun

GAPS_KEPT = 50


class Gap(TypedDict):
    """after: the last step recorded before it. before: the first one behind it, None while there is
    none. events: how many are missing, 0 where that is not known."""

    after: int
    before: int | None
    events: int


def logged_every(run: TrainRun) -> int:
    """Steps between two that are recorded."""
    every = run.parameters.get("logging_steps")
    return every if isinstance(every, int) and every > 0 else 1


def gap_opened(run: TrainRun, events: int) -> list[Gap]:
    """The train's gaps with one behind its present step; one that is open there grows."""
    gaps: list[Gap] = [*run.record_gaps]
    if gaps and gaps[-1]["before"] is None:
        events += gaps.pop()["events"]

    return [*gaps, Gap(after=run.step, before=None, events=events)][-GAPS_KEPT:]


def gap_closed(run: TrainRun, step: int) -> list[Gap]:
    """The train's gaps when `step` has been recorded."""
    gaps: list[Gap] = [*run.record_gaps]
    if gaps and gaps[-1]["before"] is None:
        gaps[-1] = Gap(after=gaps[-1]["after"], before=step, events=gaps[-1]["events"])

    return gaps


def gaps_rewound(run: TrainRun, step: int) -> list[Gap]:
    """The gaps that count when the train begins again behind `step`: what is missing after it will
    be recorded anew, and what was never recorded before it stays missing."""
    gaps = [gap for gap in run.record_gaps if gap["after"] < step]
    kept = [
        Gap(
            after=gap["after"],
            before=None if gap["before"] is None else min(gap["before"], step + 1),
            events=gap["events"],
        )
        for gap in gaps
    ]

    is_open = bool(kept) and kept[-1]["before"] in (None, step + 1)
    if not is_open and step - run.step >= logged_every(run):
        # Its checkpoint was saved after steps that nobody has stored.
        kept.append(Gap(after=run.step, before=step + 1, events=0))

    return kept


def steps_missing(run: TrainRun) -> list[tuple[int, int]]:
    """(first, last) of the steps in each gap, both included."""
    every, found = logged_every(run), []
    for gap in run.record_gaps:
        before = gap["before"]
        if before is None:
            # Nothing was recorded behind it: what the engine said last is all that is known.
            before = int(run.outcome.get("step") or 0) + 1

        if before - gap["after"] > every:
            found.append((gap["after"] + 1, before - 1))

    return found


def record_notes(run: TrainRun) -> list[str]:
    """What is missing, in sentences for a page; [] for a record that is whole."""
    notes: list[str] = []

    if run.attempt == 1 and run.status == TrainRun.Status.QUEUED:
        return notes

    if not run.directory.is_dir():
        notes.append(
            "The folder of this train is gone from the server's disk: its model, checkpoints and "
            "log "
            "cannot be read any more. What is shown here was stored before."
        )
    elif events_cut(run):
        notes.append(
            f"{EVENTS} in the train's folder was cut or removed. What is shown here was stored "
            "before."
        )

    missing = steps_missing(run)
    notes += [_steps_sentence(first, last) for first, last in missing]
    lost = sum(gap["events"] for gap in run.record_gaps)
    if lost and not missing:
        entries = "1 entry is" if lost == 1 else f"{lost:,} entries are"
        notes.append(f"{entries} missing from the record, such as evaluations or answers.")

    return notes


def _steps_sentence(first: int, last: int) -> str:
    steps = f"Step {first:,} is" if first == last else f"Steps {first:,} to {last:,} are"
    return f"{steps} missing from the record: the train's {EVENTS} was cut or damaged."


def events_cut(run: TrainRun) -> bool:
    """Whether the file holds less than was read from it."""
    try:
        size = (run.directory / EVENTS).stat().st_size
    except FileNotFoundError:
        size = 0
    except OSError:
        return False

    return size < run.events_offset


def with_gaps(points: list[list[Any]], gaps: list[tuple[int, int]]) -> list[list[Any]]:
    """A series of [step, epoch, time, value] with a point without a value in each gap, so that no
    line is drawn over it."""
    found: list[list[Any]] = []
    open_gaps = list(gaps)

    for point in points:
        while open_gaps and point[0] > open_gaps[0][1]:
            first, last = open_gaps.pop(0)
            if found and found[-1][0] < first:
                middle = [(a + b) / 2 for a, b in zip(found[-1][:3], point[:3], strict=True)]
                found.append([(first + last) // 2, round(middle[1], 4), round(middle[2], 2), None])

        found.append(point)

    return found
