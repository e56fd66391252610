"""Where lines and labels of a sweep's charts lie. The page draws them as SVG.

Across, places are per cent of the width, or thousandths of it inside the plot; down, they are
pixels for text, and thousandths of the plot's height for lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.models import Sweep, Trial
from sweeps.ranking import best_so_far, best_trial, number
from sweeps.space import Axis, values_key
from training.train.metrics import metric_title

# Pixels of the plot of parallel coordinates, below the titles of the axes.
TOP, HEIGHT = 44, 248
# Thousandths of the plot's height between which values lie; what has no value lies below.
FIRST, LAST, NOWHERE = 960, 60, 1000
# Characters of a label.
LONGEST_LABEL = 18
# More labels on one axis would lie on each other.
MOST_LABELS = 8
# Pixels of the plot of the best so far.
LINE_TOP, LINE_HEIGHT = 12, 148
LEFT = 60


@dataclass(frozen=True)
class Label:
    text: str
    y: int


@dataclass(frozen=True)
class DrawnAxis:
    """x: in per cent."""

    title: str
    x: float
    labels: list[Label]


@dataclass(frozen=True)
class DrawnTrial:
    """A line of parallel coordinates. points: as SVG has them. kind: the trial's state, or
    "best"."""

    trial: Trial
    kind: str
    points: str
    text: str


@dataclass(frozen=True)
class Parallel:
    axes: list[DrawnAxis]
    lines: list[DrawnTrial]

    @property
    def is_wide(self) -> bool:
        return len(self.axes) > 6


def parallel_of(sweep: Sweep, axes: Sequence[Axis], trials: Sequence[Trial]) -> Parallel | None:
    """Each trial as a line over the axes and the metric; None before there is a trial."""
    if not trials or not axes:
        return None

    count = len(axes) + 1
    places = [(index + 0.5) / count for index in range(count)]
    has_gap = any(axis.name not in trial.values for axis in axes for trial in trials)
    results = [trial.value for trial in trials if trial.value is not None]
    best = best_trial(sweep, trials)

    drawn = [
        DrawnAxis(axis.field.title, 100 * place, axis_labels(axis, has_gap=has_gap))
        for axis, place in zip(axes, places, strict=False)
    ]
    title = metric_title(sweep.metric)
    drawn.append(DrawnAxis(title.capitalize(), 100 * places[-1], _result_labels(results)))

    lines = []
    for trial in trials:
        heights = [_height(axis, trial) for axis in axes]
        if trial.value is not None:
            heights.append(_between(trial.value, min(results), max(results)))

        points = [
            f"{1000 * place:.0f},{height:.0f}"
            for place, height in zip(places, heights, strict=False)
        ]
        kind = "best" if best is not None and trial.pk == best.pk else trial.state
        lines.append(DrawnTrial(trial, kind, " ".join(points), trial_text(sweep, axes, trial)))

    # The best is drawn last, above all others.
    lines.sort(key=lambda line: line.kind == "best")
    return Parallel(drawn, lines)


def trial_text(sweep: Sweep, axes: Sequence[Axis], trial: Trial) -> str:
    """3: learning rate 2e-4, rank 8. Eval loss 1.842."""
    parts = [
        f"{axis.field.title.lower()} {axis.field.shown(trial.values[axis.name])}"
        for axis in axes
        if axis.name in trial.values
    ]
    text = f"{trial.number}: {', '.join(parts)}."
    if trial.value is not None:
        return f"{text} {metric_title(sweep.metric).capitalize()} {number(trial.value)}."

    return f"{text} {trial.get_state_display()}."


def axis_labels(axis: Axis, *, has_gap: bool) -> list[Label]:
    """Values of an axis, lowest at the bottom."""
    labels = [
        Label(shortened(axis.field.shown(value), LONGEST_LABEL), _pixels(_place(axis, value)))
        for value in _labelled(axis)
    ]
    if has_gap:
        labels.append(Label("–", _pixels(NOWHERE)))

    return labels


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip(' ,')}…"


def _labelled(axis: Axis) -> list[object]:
    values = _sorted(axis)
    if axis.is_range or len(values) <= MOST_LABELS:
        return values

    step = math.ceil(len(values) / MOST_LABELS)
    return values[::step]


def _sorted(axis: Axis) -> list[object]:
    """Numbers by size, all else as it was given."""
    if axis.is_range:
        return [axis.low, axis.high]

    values = list(axis.values)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        values.sort()

    return values


def _height(axis: Axis, trial: Trial) -> float:
    if axis.name not in trial.values:
        return NOWHERE

    return _place(axis, trial.values[axis.name])


def _place(axis: Axis, value: object) -> float:
    """In thousandths of the plot's height."""
    if axis.is_range:
        assert isinstance(value, int | float)
        if axis.log:
            return _between(math.log(value), math.log(axis.low), math.log(axis.high))

        return _between(value, axis.low, axis.high)

    keys = [values_key({"": known}) for known in _sorted(axis)]
    return _between(keys.index(values_key({"": value})), 0, len(keys) - 1)


def _between(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return FIRST + (LAST - FIRST) * min(max(share, 0.0), 1.0)


def _pixels(place: float) -> int:
    return round(TOP + HEIGHT * place / 1000)


def _result_labels(results: Sequence[float]) -> list[Label]:
    if not results:
        return []
    if min(results) == max(results):
        return [Label(number(results[0]), _pixels(_between(0, 0, 0)))]

    ends = (min(results), max(results))
    return [Label(number(value), _pixels(_between(value, *ends))) for value in ends]


# The best so far


@dataclass(frozen=True)
class Dot:
    """A complete trial. x: in per cent, y: in pixels."""

    number: int
    x: float
    y: int
    text: str
    is_best: bool


@dataclass(frozen=True)
class BestLine:
    """The best value over the trials. points: of the line, as SVG has them."""

    points: str
    dots: list[Dot]
    labels: list[Label]
    last: int


def best_line_of(sweep: Sweep, trials: Sequence[Trial]) -> BestLine | None:
    """None with fewer than two complete trials."""
    line = best_so_far(sweep, trials)
    if len(line) < 2:
        return None

    values = [value for _, value, _ in line]
    low, high = min(values), max(values)
    last = max(trial.number for trial in trials)
    title = metric_title(sweep.metric).capitalize()
    corners: list[str] = []
    dots: list[Dot] = []
    before: float | None = None

    for position, value, best in line:
        across = (position - 0.5) / last
        down = _between(best, low, high)
        if before is not None and before != down:
            corners.append(f"{1000 * across:.0f},{before:.0f}")

        corners.append(f"{1000 * across:.0f},{down:.0f}")
        before = down
        place = _between(value, low, high)
        dots.append(
            Dot(
                number=position,
                x=100 * across,
                y=round(LINE_TOP + LINE_HEIGHT * place / 1000),
                text=f"{position}: {title} {number(value)}",
                is_best=value == line[-1][2],
            )
        )

    corners.append(f"1000,{before:.0f}")
    labels = [
        Label(number(value), round(LINE_TOP + LINE_HEIGHT * _between(value, low, high) / 1000))
        for value in dict.fromkeys((low, high))
    ]
    return BestLine(" ".join(corners), dots, labels, last)
