"""Downsampled curves, kept while a train runs, so that a chart of a million steps costs what one of
a thousand does.

Events are numbered, and every 16 of them have a summary: of each metric its lowest point, its
highest and one gap. Four summaries make one of 64 events, four of those one of 256, and so on. They
only repeat what the metric rows hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.models import Count, Max, Min, Q

from training.models import CurveSummary, TrainRun

Point = list[Any]  # [step, epoch, time, value]; value None where it was not a finite number
STEP, EPOCH, TIME, VALUE = range(4)
Points = dict[str, list[Point]]

SIZES = (16, 64, 256, 1024, 4096)
# Events that one call catches up with at most: it holds the database meanwhile.
CAUGHT_UP = 1 << 16


def extremes(points: list[Point]) -> list[Point]:
    """Of consecutive points the lowest, the highest and the first gap, in their order."""
    chosen: set[int] = set()
    finite: list[int] = []
    gaps: list[int] = []

    for index, point in enumerate(points):
        if point[VALUE] is None:
            gaps.append(index)
        else:
            finite.append(index)

    if gaps:
        chosen.add(gaps[0])

    if finite:
        chosen.add(min(finite, key=lambda index: points[index][VALUE]))
        chosen.add(max(finite, key=lambda index: points[index][VALUE]))

    return [points[index] for index in sorted(chosen)]


# Writing


def curve_summaries_extend(run: TrainRun, last_seq: int) -> None:
    """Write the summaries that are complete with event `last_seq`, each size from the smaller one."""
    covered = last_seq + 1
    smaller = 0

    for size in SIZES:
        covered = _extend(run, size, smaller, covered)
        smaller = size


def _extend(run: TrainRun, size: int, smaller: int, covered: int) -> int:
    """Write the missing summaries of one size from those of size `smaller` (0: from the rows), which
    cover the events below `covered`. Returns up to which event this size covers them now."""
    last = run.curve_summaries.filter(size=size).aggregate(last=Max("number"))["last"]
    first = 0 if last is None else last + 1
    end = min(covered // size, first + CAUGHT_UP // size)
    if end <= first:
        return first * size

    low = first * size
    high = end * size
    source = _summaries(run, smaller, low, high) if smaller else _rows(run, low, high)

    gathered: dict[int, Points] = {number: {} for number in range(first, end)}
    for seq, points in source:
        _gather(gathered[seq // size], points)

    CurveSummary.objects.bulk_create(
        _summary(run, size, number, points) for number, points in gathered.items()
    )
    return high


def _gather(target: Points, points: Points) -> None:
    for name, some in points.items():
        target.setdefault(name, []).extend(some)


def _summary(run: TrainRun, size: int, number: int, points: Points) -> CurveSummary:
    steps = [point[STEP] for some in points.values() for point in some]
    kept = {name: extremes(some) for name, some in points.items()}
    return CurveSummary(
        run=run,
        size=size,
        number=number,
        first_step=min(steps, default=1),
        last_step=max(steps, default=0),
        points=kept,
    )


def curve_summaries_rewind(run: TrainRun, seq: int) -> None:
    """Delete what was made of event `seq` or of later ones."""
    for size in SIZES:
        run.curve_summaries.filter(size=size, number__gte=seq // size).delete()


# Reading


def points_read(run: TrainRun, most: int, steps: tuple[int, int] | None = None) -> Points:
    """Points of every metric in their order, of `steps` (first and last, both included) or of all.

    Up to four times `most` events each point is returned; above that the extremes of at most `most`
    summaries, as long as there is a size for it."""
    low, high = _events_of(run, steps)
    count = _events_count(run, low, high)

    points: Points = {}
    for part in _parts(run, low, high, _size_for(count, most)):
        _gather(points, part)

    if steps is None:
        return points

    first, last = steps
    within: Points = {}
    for name, some in points.items():
        kept = [point for point in some if first <= point[STEP] <= last]
        if kept:
            within[name] = kept

    return within


def _size_for(count: int, most: int) -> int:
    """The summaries to read for `count` events; 0: the rows themselves."""
    if count <= 4 * most:
        return 0

    for size in SIZES:
        if count <= size * most:
            return size

    return SIZES[-1]


def _events_of(run: TrainRun, steps: tuple[int, int] | None) -> tuple[int, int]:
    """[from, to) of the events that can hold these steps. Steps never fall from one event to a
    later one."""
    low = 0
    high = run.last_seq + 1

    if steps is None:
        return low, high

    size = SIZES[0]
    summaries = run.curve_summaries.filter(size=size, last_step__gt=0)
    earlier = summaries.filter(last_step__lt=steps[0]).aggregate(last=Max("number"))["last"]
    later = summaries.filter(first_step__gt=steps[1]).aggregate(first=Min("number"))["first"]

    if earlier is not None:
        low = (earlier + 1) * size
    if later is not None:
        high = (later + 1) * size

    return low, high


def _events_count(run: TrainRun, low: int, high: int) -> int:
    """About how many of the events [low, high) still count: what a later attempt took back costs
    nothing to read."""
    size = SIZES[0]
    summaries = run.curve_summaries.filter(
        size=size,
        number__gte=low // size,
        number__lt=high // size,
    )
    totals = summaries.aggregate(
        last=Max("number"),
        filled=Count("pk", filter=Q(last_step__gt=0)),
    )

    covered = low if totals["last"] is None else (totals["last"] + 1) * size
    return int(totals["filled"]) * size + high - covered


def _parts(run: TrainRun, low: int, high: int, size: int) -> Iterator[Points]:
    """Summaries of `size`, then smaller ones, then rows: where a size is not complete yet, the next
    smaller one continues."""
    at = low // size * size if size else low

    for smaller in reversed(SIZES):
        if smaller > size:
            continue

        for seq, points in _summaries(run, smaller, at, high // smaller * smaller):
            at = seq + smaller
            yield points

    for _, points in _rows(run, at, high):
        yield points


def _rows(run: TrainRun, low: int, high: int) -> Iterator[tuple[int, Points]]:
    """(event, {metric: [point]}) of the rows of events [low, high)."""
    rows = run.metrics.filter(seq__gte=low, seq__lt=high).values_list(
        "seq", "step", "epoch", "time", "values"
    )

    for seq, step, epoch, time, values in rows.iterator(chunk_size=2000):
        points: Points = {}
        for name, value in values.items():
            points[name] = [[step, round(epoch, 4), round(time, 2), shortened(value)]]

        yield seq, points


def _summaries(run: TrainRun, size: int, low: int, high: int) -> Iterator[tuple[int, Points]]:
    """(first event, {metric: points}) of the summaries of events [low, high)."""
    summaries = run.curve_summaries.filter(
        size=size,
        number__gte=low // size,
        number__lt=high // size,
    )
    rows = summaries.order_by("number").values_list("number", "points")

    for number, points in rows.iterator(chunk_size=2000):
        yield number * size, points


def shortened(value: Any) -> float | None:
    """Six digits are more than a chart can show; what is not a number is a gap."""
    return float(f"{value:.6g}") if isinstance(value, int | float) else None
