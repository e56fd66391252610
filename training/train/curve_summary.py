"""Long curves made short while they grow, so that a chart of a million steps costs what one of a
thousand does.

Events are numbered, and every 16 of them are a stretch: of each metric it keeps the lowest point,
the highest and one gap. Four stretches make one of 64, four of those one of 256, and so on. They
only repeat what the metric rows hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.db.models import Count, Max, Min, Q

from training.models import MetricStretch, TrainRun

Point = list[Any]  # [step, epoch, time, value]; value None where it was not a finite number
STEP, EPOCH, TIME, VALUE = range(4)
Points = dict[str, list[Point]]

SIZES = (16, 64, 256, 1024, 4096)
# Events that one call catches up with at most: it holds the database meanwhile.
CAUGHT_UP = 1 << 16


def extremes(points: list[Point]) -> Iterable[Point]:
    """Of consecutive points the lowest, the highest and the first gap, in their order."""
    finite = [index for index, point in enumerate(points) if point[VALUE] is not None]
    chosen = {next((index for index, point in enumerate(points) if point[VALUE] is None), -1)} - {
        -1
    }

    if finite:
        chosen.add(min(finite, key=lambda index: points[index][VALUE]))
        chosen.add(max(finite, key=lambda index: points[index][VALUE]))

    return [points[index] for index in sorted(chosen)]


# Written


def stretches_grow(run: TrainRun, last_seq: int) -> None:
    """Make the stretches that are complete with event `last_seq`, each size from the one below."""
    covered = last_seq + 1
    for below, size in zip((0, *SIZES), SIZES, strict=False):
        done = run.stretches.filter(size=size).aggregate(last=Max("number"))["last"]
        first = 0 if done is None else done + 1
        end = max(first, min(covered // size, first + CAUGHT_UP // size))
        covered = end * size

        if end == first:
            continue

        found: dict[int, Points] = {number: {} for number in range(first, end)}
        read = (
            _stretches(run, below, first * size, covered)
            if below
            else _rows(run, first * size, covered)
        )

        for seq, points in read:
            for name, some in points.items():
                found[seq // size].setdefault(name, []).extend(some)

        MetricStretch.objects.bulk_create(
            _stretch(run, size, number, points) for number, points in found.items()
        )


def _stretch(run: TrainRun, size: int, number: int, points: Points) -> MetricStretch:
    steps = [point[STEP] for some in points.values() for point in some]
    kept = {name: list(extremes(some)) for name, some in points.items()}
    return MetricStretch(
        run=run,
        size=size,
        number=number,
        first_step=min(steps, default=1),
        last_step=max(steps, default=0),
        points=kept,
    )


def stretches_rewind(run: TrainRun, seq: int) -> None:
    """Take away what was made of event `seq` or of later ones."""
    for size in SIZES:
        run.stretches.filter(size=size, number__gte=seq // size).delete()


# Read


def points_read(run: TrainRun, most: int, steps: tuple[int, int] | None = None) -> Points:
    """Points of every metric in their order, of these steps (both included) or of all: each one up
    to four times `most` events, above that the extremes of at most `most` stretches (as long as
    there is a size for it)."""
    low, high = _events_of(run, steps)
    count = _events_count(run, low, high)
    size = (
        0
        if count <= 4 * most
        else next((size for size in SIZES if count <= size * most), SIZES[-1])
    )

    found: Points = {}

    for points in _parts(run, low, high, size):
        for name, some in points.items():
            found.setdefault(name, []).extend(some)

    if steps is None:
        return found

    first, last = steps
    return {
        name: within
        for name, some in found.items()
        if (within := [one for one in some if first <= one[STEP] <= last])
    }


def _events_of(run: TrainRun, steps: tuple[int, int] | None) -> tuple[int, int]:
    """[from, to) of the events that can hold these steps. Steps never fall from one event to a
    later one."""
    high = run.last_seq + 1

    if steps is None:
        return 0, high

    smallest = run.stretches.filter(size=SIZES[0], last_step__gt=0)
    before = smallest.filter(last_step__lt=steps[0]).aggregate(last=Max("number"))["last"]
    after = smallest.filter(first_step__gt=steps[1]).aggregate(first=Min("number"))["first"]

    return 0 if before is None else (before + 1) * SIZES[0], high if after is None else (
        after + 1
    ) * SIZES[0]


def _events_count(run: TrainRun, low: int, high: int) -> int:
    """About how many of the events [low, high) still count: what a later attempt took back is no
    work to read."""
    size = SIZES[0]
    made = run.stretches.filter(size=size, number__gte=low // size, number__lt=high // size)
    told = made.aggregate(last=Max("number"), full=Count("pk", filter=Q(last_step__gt=0)))
    covered = low if told["last"] is None else (told["last"] + 1) * size

    return int(told["full"]) * size + high - covered


def _parts(run: TrainRun, low: int, high: int, size: int) -> Iterator[Points]:
    """Stretches of `size`, then smaller ones, then rows: what is not complete yet is told by the
    next smaller."""
    at = low // size * size if size else low
    for one in reversed([item for item in SIZES if item <= size]):
        for seq, points in _stretches(run, one, at, high // one * one):
            at = seq + one
            yield points

    for _, points in _rows(run, at, high):
        yield points


def _rows(run: TrainRun, low: int, high: int) -> Iterator[tuple[int, Points]]:
    """(event, {metric: [point]}) of the rows of events [low, high)."""
    rows = run.metrics.filter(seq__gte=low, seq__lt=high).values_list(
        "seq", "step", "epoch", "time", "values"
    )
    for seq, step, epoch, time, values in rows.iterator(chunk_size=2000):
        place = (step, round(epoch, 4), round(time, 2))
        yield seq, {name: [[*place, shortened(value)]] for name, value in values.items()}


def _stretches(run: TrainRun, size: int, low: int, high: int) -> Iterator[tuple[int, Points]]:
    """(first event, {metric: points}) of the stretches of events [low, high)."""
    found = run.stretches.filter(
        size=size, number__gte=low // size, number__lt=high // size
    ).order_by("number")
    for number, points in found.values_list("number", "points").iterator(chunk_size=2000):
        yield number * size, points


def shortened(value: Any) -> float | None:
    """Six digits are more than a chart can show; what is no number is a gap."""
    return float(f"{value:.6g}") if isinstance(value, int | float) else None
