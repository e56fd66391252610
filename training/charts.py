"""What the charts show: the table of known metrics, and long series made short enough to send and draw.

A metric that the table does not know gets a chart of its own, under a heading made of its prefix ("rewards/margin":
Rewards). The page's script reads the same table, so that a metric that appears while a train runs has its chart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.recipes.registry import LOSS, Objective
from training.models import TrainRun
from training.record import steps_missing, with_gaps
from training.stretches import VALUE, Point, extremes, points_read

# Per series. A chart is at most 2,000 pixels wide, and each bucket sends its lowest and its highest point.
MOST_POINTS = 2000


@dataclass(frozen=True)
class Chart:
    """`train` and `eval` name the metrics of the two lines. `place` is "main", "side" or "" (below, under `heading`).

    kind says how values are written: loss, rate, share, value (may be negative), number. `limit` names the parameter or
    device fact whose value is drawn as a reference line, labelled `limit_label`.
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
    Chart("reward", "Reward", "reward", "eval_reward", heading="Rewards", kind="value", log=False),
    Chart("reward_std", "Spread of rewards", "reward_std", heading="Rewards", kind="value", log=False),
    Chart(
        "no_spread", "Prompts without spread", "frac_reward_zero_std", heading="Rewards",
        kind="share", log=False,
    ),
    Chart(
        "margins", "Margin of the better answer", "rewards/margins", "eval_rewards/margins", heading="Preference",
        kind="value", log=False,
    ),
    Chart(
        "accuracies", "Better answer preferred", "rewards/accuracies", "eval_rewards/accuracies", heading="Preference",
        kind="share", log=False,
    ),
    Chart(
        "chosen", "Reward of better answers", "rewards/chosen", "eval_rewards/chosen", heading="Preference",
        kind="value", log=False,
    ),
    Chart(
        "rejected", "Reward of worse answers", "rewards/rejected", "eval_rewards/rejected", heading="Preference",
        kind="value", log=False,
    ),
    Chart(
        "logps_chosen", "Log-probability of better answers", "logps/chosen", "eval_logps/chosen", heading="Preference",
        log=False,
    ),
    Chart(
        "logps_rejected", "Log-probability of worse answers", "logps/rejected", "eval_logps/rejected",
        heading="Preference", log=False,
    ),
    Chart(
        "scorer_accuracy", "Better answer scored higher", "accuracy", "eval_accuracy", heading="Preference",
        kind="share", log=False,
    ),
    Chart("margin", "Margin of scores", "margin", "eval_margin", heading="Preference", kind="value", log=False),
    Chart(
        "mean_reward", "Mean score", "mean_reward", "eval_mean_reward", heading="Preference", kind="value", log=False
    ),
    Chart("kl", "KL from the reference", "kl", "eval_kl", heading="Policy", kind="value", log=False),
    Chart("clip_ratio", "Tokens clipped", "clip_ratio/region_mean", heading="Policy", kind="share", log=False),
    Chart("policy_loss", "Policy loss", "policy_loss", heading="Policy", kind="value", log=False),
    Chart("value_loss", "Value loss", "value_loss", heading="Policy", kind="loss"),
    Chart("explained_variance", "Rewards foretold", "explained_variance", heading="Policy", kind="value", log=False),
    Chart("return", "Mean return", "return", heading="Policy", kind="value", log=False),
    Chart(
        "completion_length", "Answer length", "completions/mean_length", "eval_completions/mean_length",
        heading="Answers", unit="tokens", log=False,
    ),
    Chart(
        "cut_off", "Answers cut off", "completions/clipped_ratio", "eval_completions/clipped_ratio", heading="Answers",
        kind="share", log=False,
    ),
    Chart("unscored", "Answers without a score", "rewards/unscored", heading="Answers", kind="share", log=False),
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
)  # fmt: skip
# Counted up or constant, told elsewhere on the page, or the edges of what is charted.
EDGES = (
    "completions/min_length", "completions/max_length", "completions/mean_terminated_length",
    "completions/min_terminated_length", "completions/max_terminated_length", "clip_ratio/low_mean",
    "clip_ratio/low_min", "clip_ratio/high_mean", "clip_ratio/high_max", "logits/chosen", "logits/rejected",
    "min_reward", "max_reward", "reward_std",
)  # fmt: skip
NOT_CHARTED = (
    "num_tokens", "eval_num_tokens", "epoch", "eval_runtime", "total_flos", "step",
    *(name for name in EDGES if name != "reward_std"), *(f"eval_{name}" for name in EDGES),
)  # fmt: skip


def charts_table(objective: Objective = LOSS) -> list[dict[str, Any]]:
    """The chart of what a train is judged by stands first and large."""
    first = next(chart for chart in CHARTS if chart.train == objective.train)
    others = [replace(chart, place="", heading="Quality") if chart.place == "main" else chart for chart in CHARTS]
    table = [replace(first, place="main", heading=""), *(chart for chart in others if chart.name != first.name)]
    return [asdict(chart) for chart in table]


def limits_of(run: TrainRun) -> dict[str, float]:
    """Values of reference lines, by the name that Chart.limit uses; zero means that there is no limit."""
    device = run.facts.get("device") or {}
    found = {"max_grad_norm": run.parameters.get("max_grad_norm"), "memory_gb": device.get("memory_gb")}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and value > 0}


def series_of(run: TrainRun, *, most_points: int = MOST_POINTS, steps: tuple[int, int] | None = None) -> dict[str, Any]:
    """{"status", "next", "planned": {step, epoch}, "seams", "gaps", "series": {metric: [[step, epoch, time, value]]}}.

    `steps`: the first and the last to tell of.

    Seams: [step, time] where a later attempt went on from a checkpoint.
    Gaps: [first, last] of the steps that are missing from the record; in each a series has a point without a value.
    Each series is reduced to `most_points`. Polling goes on with `next` as the metrics API's `after`.
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
        kept += extremes(inner[start:end])
    return [*kept, points[-1]]
