"""What the charts show: the table of known metrics, and long series made short enough to send and draw.

A metric that the table does not know gets a chart of its own, under a heading made of its prefix ("rewards/margin":
Rewards). The page's script reads the same table, so that a metric that appears while a train runs has its chart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from training.models import TrainRun

# Per series. A chart is at most 2,000 pixels wide, and each bucket sends its lowest and its highest point.
MOST_POINTS = 2000
Point = list[Any]  # [step, epoch, time, value]; value None where it was not a finite number
STEP, EPOCH, TIME, VALUE = range(4)


@dataclass(frozen=True)
class Chart:
    """`train` and `eval` name the metrics of the two lines. `place` is "main", "side" or "" (below, under `heading`).

    kind says how values are written: loss, rate, share, number. `limit` names the parameter or device fact whose
    value is drawn as a reference line, labelled `limit_label`.
    """

    name: str
    title: str
    train: str = ""
    eval: str = ""
    heading: str = ""
    place: str = ""
    unit: str = ""
    kind: str = "number"
    log: bool = True
    limit: str = ""
    limit_label: str = ""


CHARTS = (
    Chart("loss", "Loss", "loss", "eval_loss", place="main", kind="loss"),
    Chart("learning_rate", "Learning rate", "learning_rate", place="side", kind="rate"),
    Chart(
        "grad_norm", "Gradient norm", "grad_norm", place="side", kind="loss", limit="max_grad_norm", limit_label="clip"
    ),
    Chart("tokens_per_second", "Speed", "tokens_per_second", place="side", unit="tok/s"),
    Chart("perplexity", "Perplexity", eval="eval_perplexity", heading="Quality", kind="loss"),
    Chart(
        "accuracy",
        "Token accuracy",
        "mean_token_accuracy",
        "eval_mean_token_accuracy",
        heading="Quality",
        kind="share",
        log=False,
    ),
    Chart("entropy", "Entropy", "entropy", "eval_entropy", heading="Quality", kind="loss"),
    Chart("samples_per_second", "Rows a second", "samples_per_second", heading="Device", unit="rows/s"),
    Chart(
        "peak_memory_gb",
        "Peak memory",
        "peak_memory_gb",
        heading="Device",
        unit="GB",
        log=False,
        limit="memory_gb",
        limit_label="device",
    ),
)
# Counted up or constant, and told elsewhere on the page.
NOT_CHARTED = ("num_tokens", "eval_num_tokens", "epoch", "eval_runtime", "total_flos", "step")


def charts_table() -> list[dict[str, Any]]:
    return [asdict(chart) for chart in CHARTS]


def limits_of(run: TrainRun) -> dict[str, float]:
    """Values of reference lines, by the name that Chart.limit uses; zero means that there is no limit."""
    device = run.facts.get("device") or {}
    found = {"max_grad_norm": run.parameters.get("max_grad_norm"), "memory_gb": device.get("memory_gb")}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and value > 0}


def series_of(run: TrainRun, *, most_points: int = MOST_POINTS) -> dict[str, Any]:
    """{"status", "next", "planned": {step, epoch}, "series": {metric: [[step, epoch, time, value]]}}.

    Each series is reduced to `most_points`. Polling goes on with `next` as the metrics API's `after`.
    """
    series: dict[str, list[Point]] = {}
    last = 0
    rows = run.metrics.values_list("seq", "step", "epoch", "time", "values").iterator(chunk_size=2000)
    for seq, step, epoch, time, values in rows:
        last = seq
        for name, value in values.items():
            if name not in NOT_CHARTED:
                series.setdefault(name, []).append([step, round(epoch, 4), round(time, 1), shortened(value)])
    return {
        "status": run.status,
        "next": last,
        "planned": planned_of(run),
        "limits": limits_of(run),
        "series": {name: reduce_points(points, most_points) for name, points in series.items()},
    }


def shortened(value: Any) -> float | None:
    """Six digits are more than a chart can show; what is no number is a gap."""
    return float(f"{value:.6g}") if isinstance(value, int | float) else None


def planned_of(run: TrainRun) -> dict[str, float]:
    """Where the x axis ends while the train has not got there: steps and epochs as planned, 0 where unknown."""
    steps = run.total_steps
    per_epoch = run.facts.get("steps_per_epoch") or 0
    return {"step": steps, "epoch": round(steps / per_epoch, 4) if per_epoch else 0, "per_epoch": per_epoch}


def reduce_points(points: list[Point], most: int) -> list[Point]:
    """At most `most` points that look like all of them: of each stretch its lowest, its highest and one gap.

    The first and the last point stay, and so does every spike. Order stays.
    """
    if len(points) <= most:
        return points
    inner = points[1:-1]
    # Three kept a stretch only where it holds a value that was not finite, so count by three to stay under `most`.
    has_gaps = any(point[VALUE] is None for point in inner)
    stretches = max(1, (most - 2) // (3 if has_gaps else 2))
    kept = [points[0]]
    for number in range(stretches):
        start, end = number * len(inner) // stretches, (number + 1) * len(inner) // stretches
        kept += _extremes(inner[start:end])
    return [*kept, points[-1]]


def _extremes(stretch: list[Point]) -> Iterable[Point]:
    finite = [index for index, point in enumerate(stretch) if point[VALUE] is not None]
    gap = next((index for index, point in enumerate(stretch) if point[VALUE] is None), None)
    chosen = {index for index in (gap,) if index is not None}
    if finite:
        chosen.add(min(finite, key=lambda index: stretch[index][VALUE]))
        chosen.add(max(finite, key=lambda index: stretch[index][VALUE]))
    return [stretch[index] for index in sorted(chosen)]
