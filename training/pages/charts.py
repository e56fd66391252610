"""What the charts show: long series made short enough to send and draw, reference lines, and where
the axis ends."""

from __future__ import annotations

from typing import Any

from engine.rewards.registry import REWARDS
from training.models import TrainRun
from training.pages.chart_table import NOT_CHARTED
from training.train.alerts import CUT_OFF, NO_SPREAD
from training.train.curve_summary import VALUE, Point, extremes, points_read
from training.train.record import steps_missing, with_gaps

# Per series. A chart is at most 2,000 pixels wide, and each bucket sends its lowest and its highest
# point.
MOST_POINTS = 2000


def limits_of(run: TrainRun) -> dict[str, float]:
    """Values of reference lines, by the name that Chart.limit uses; zero means that there is no
    limit."""
    device = run.facts.get("device") or {}
    found = {
        "max_grad_norm": run.parameters.get("max_grad_norm"),
        "memory_gb": device.get("memory_gb"),
        "max_reward": highest_reward(run),
        "max_completion_tokens": run.parameters.get("max_completion_tokens"),
    }

    if run.objective.higher_is_better:
        found |= {"alert_no_spread": NO_SPREAD, "alert_cut_off": CUT_OFF}

    return {
        name: value for name, value in found.items() if isinstance(value, int | float) and value > 0
    }


def highest_reward(run: TrainRun) -> float | None:
    """The most that an answer can be worth: the weighted sum of what each function gives at most.
    None where one of them has no bound."""
    total = 0.0
    for choice in run.parameters.get("rewards") or []:
        kind, weight = REWARDS.get(choice.get("function", "")), float(choice.get("weight", 1.0))
        bound = None if kind is None else kind.high if weight >= 0 else kind.low
        if bound is None:
            return None

        total += weight * bound

    return round(total, 6)


def series_of(
    run: TrainRun, *, most_points: int = MOST_POINTS, steps: tuple[int, int] | None = None
) -> dict[str, Any]:
    """{"status", "next", "planned": {step, epoch}, "limits", "seams", "gaps", "series"}, where
    "series" is {metric: [[step, epoch, time, value]]}.

    `steps`: the first and the last to tell of.

    Seams: [step, time] where a later attempt went on from a checkpoint. Gaps: [first, last] of the
    steps that are missing from the record; in each a series has a point without a value. Each
    series is reduced to `most_points`. What came since follows `next`, as `after` of the API's events.
    """
    found = points_read(run, most_points, steps)
    gaps = steps_missing(run)

    return {
        "status": run.status,
        "next": run.last_seq,
        "planned": planned_of(run),
        "limits": limits_of(run),
        "seams": run.facts.get("seams") or [],
        "gaps": gaps,
        "series": {
            name: with_gaps(reduce_points(points, most_points), gaps)
            for name, points in found.items()
            if name not in NOT_CHARTED
        },
    }


def planned_of(run: TrainRun) -> dict[str, float]:
    """Where the x axis ends while the train has not got there: steps and epochs as planned, 0 where
    unknown."""
    steps = run.total_steps
    per_epoch = run.facts.get("steps_per_epoch") or 0

    return {
        "step": steps,
        "epoch": round(steps / per_epoch, 4) if per_epoch else 0,
        "per_epoch": per_epoch,
    }


def reduce_points(points: list[Point], most: int) -> list[Point]:
    """At most `most` points that look like all of them: of each stretch its lowest, its highest and
    one gap.

    The first and the last point stay, and so does every spike. Order stays.
    """
    if len(points) <= most:
        return points

    inner = points[1:-1]
    # Three kept a stretch only where it holds a value that was not finite, so count by three to
    # stay under `most`.
    has_gaps = any(point[VALUE] is None for point in inner)
    stretches = max(1, (most - 2) // (3 if has_gaps else 2))
    kept = [points[0]]

    for number in range(stretches):
        start, end = number * len(inner) // stretches, (number + 1) * len(inner) // stretches
        kept += extremes(inner[start:end])

    return [*kept, points[-1]]
