"""What is missing from a train's record: events that were lost before they were stored.

events.jsonl numbers its events, so a cut, damaged or removed file shows as missing numbers. Where a
later attempt begins after the last step that was recorded, steps are missing too."""

from __future__ import annotations

from typing import Any, TypedDict

from engine.contract.rundir import EVENTS
from training.models import TrainRun

GAPS_KEPT = 50


class Gap(TypedDict):
    """after: the last step recorded before the gap. before: the first one recorded after it, None
    while there is none. events: how many are missing, 0 where that is not known."""

    after: int
    before: int | None
    events: int


def logged_every(run: TrainRun) -> int:
    """Steps between two that are recorded."""
    every = run.parameters.get("logging_steps")
    return every if isinstance(every, int) and every > 0 else 1


def gap_opened(run: TrainRun, events: int) -> list[Gap]:
    """The train's gaps with one after its present step; a gap that is open there already grows."""
    gaps: list[Gap] = [*run.record_gaps]
    if gaps and gaps[-1]["before"] is None:
        events += gaps.pop()["events"]

    gaps.append(Gap(after=run.step, before=None, events=events))
    return gaps[-GAPS_KEPT:]


def gap_closed(run: TrainRun, step: int) -> list[Gap]:
    """The train's gaps when `step` has been recorded."""
    gaps: list[Gap] = [*run.record_gaps]
    if gaps and gaps[-1]["before"] is None:
        last = gaps.pop()
        gaps.append(Gap(after=last["after"], before=step, events=last["events"]))

    return gaps


def gaps_rewound(run: TrainRun, step: int) -> list[Gap]:
    """The gaps that remain when the train resumes after `step`: what is missing after it will be
    recorded anew, and what was never recorded before it stays missing."""
    kept: list[Gap] = []
    for gap in run.record_gaps:
        if gap["after"] >= step:
            continue

        before = gap["before"]
        if before is not None:
            before = min(before, step + 1)

        kept.append(Gap(after=gap["after"], before=before, events=gap["events"]))

    reaches_step = bool(kept) and kept[-1]["before"] in (None, step + 1)
    if not reaches_step and step - run.step >= logged_every(run):
        # Its checkpoint was saved after steps that were not stored.
        kept.append(Gap(after=run.step, before=step + 1, events=0))

    return kept


def steps_missing(run: TrainRun) -> list[tuple[int, int]]:
    """(first, last) of the steps in each gap, both included."""
    missing: list[tuple[int, int]] = []
    for gap in run.record_gaps:
        before = gap["before"]
        if before is None:
            # Nothing was recorded after it: the engine's last event is all that is known.
            before = int(run.outcome.get("step") or 0) + 1

        if before - gap["after"] > logged_every(run):
            missing.append((gap["after"] + 1, before - 1))

    return missing


def record_notes(run: TrainRun) -> list[str]:
    """What is missing, in sentences for a page; [] for a record that is whole."""
    notes: list[str] = []

    if run.attempt == 1 and run.status == TrainRun.Status.QUEUED:
        return notes

    if not run.directory.is_dir():
        notes.append(
            "The folder of this train is gone from the server's disk: its model, checkpoints and "
            "log cannot be read any more. What is shown here was stored before."
        )
    elif events_cut(run):
        notes.append(
            f"{EVENTS} in the train's folder was cut or removed. What is shown here was stored "
            "before."
        )

    missing = steps_missing(run)
    for first, last in missing:
        notes.append(_steps_sentence(first, last))

    lost = sum(gap["events"] for gap in run.record_gaps)
    if lost and not missing:
        entries = f"{lost:,} entries are"
        if lost == 1:
            entries = "1 entry is"

        notes.append(f"{entries} missing from the record, such as evaluations or answers.")

    return notes


def _steps_sentence(first: int, last: int) -> str:
    steps = f"Steps {first:,} to {last:,} are"
    if first == last:
        steps = f"Step {first:,} is"

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
    series: list[list[Any]] = []
    remaining = list(gaps)

    for point in points:
        while remaining and point[0] > remaining[0][1]:
            gap = remaining.pop(0)
            if series and series[-1][0] < gap[0]:
                series.append(_point_in_gap(gap, series[-1], point))

        series.append(point)

    return series


def _point_in_gap(gap: tuple[int, int], before: list[Any], after: list[Any]) -> list[Any]:
    """A point without a value, half-way between its neighbours."""
    _, epoch_before, time_before, _ = before
    _, epoch_after, time_after, _ = after

    step = sum(gap) // 2
    epoch = (epoch_before + epoch_after) / 2
    time = (time_before + time_after) / 2
    return [step, round(epoch, 4), round(time, 2), None]
