"""The table of known metrics: which charts there are, where they stand, and how their values are
written.

A metric that the table does not know gets a chart of its own, under a heading made of its prefix
("rewards/margin": Rewards). The page's script reads the same table, so that a metric that appears
while a train runs has its chart."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.schema.registry import LOSS, Objective


@dataclass(frozen=True)
class Chart:
    """`train` and `eval` name the metrics of the two lines; or every metric that begins with
    `prefix` and ends with `suffix` is a line. `band`: the metric whose value is drawn above and
    below the train line.

    `place` is "main", "side" or "row" (at the top of the page), or "" (below, under `heading`).
    `axis` names what the y axis measures. kind says how values are written: loss, rate, share,
    value (may be negative), number. `limit` names the reference line of training.pages.charts.limits_of,
    labelled `limit_label`."""

    name: str
    title: str
    train: str = ""
    eval: str = ""
    prefix: str = ""
    suffix: str = ""
    band: str = ""
    heading: str = ""
    place: str = ""
    unit: str = ""
    axis: str = "value"
    kind: str = "number"
    log: bool = True
    limit: str = ""
    limit_label: str = ""


TRAINING = (
    Chart("loss", "Loss", "loss", "eval_loss", place="main", kind="loss", axis="loss"),
    Chart(
        "learning_rate",
        "Learning rate",
        "learning_rate",
        place="side",
        kind="rate",
        axis="rate",
    ),
    Chart(
        "grad_norm",
        "Gradient norm",
        "grad_norm",
        place="side",
        kind="loss",
        axis="norm",
        limit="max_grad_norm",
        limit_label="clip",
    ),
    Chart(
        "tokens_per_second",
        "Speed",
        "tokens_per_second",
        place="side",
        unit="tok/s",
        axis="tokens/s",
    ),
)

QUALITY = (
    Chart(
        "perplexity",
        "Perplexity",
        eval="eval_perplexity",
        heading="Quality",
        kind="loss",
        axis="perplexity",
    ),
    Chart(
        "accuracy",
        "Token accuracy",
        "mean_token_accuracy",
        "eval_mean_token_accuracy",
        heading="Quality",
        kind="share",
        axis="% of tokens",
        log=False,
    ),
    Chart(
        "entropy",
        "Entropy",
        "entropy",
        "eval_entropy",
        heading="Quality",
        kind="loss",
        axis="nats per token",
    ),
)

REWARDS = (
    Chart(
        "reward",
        "Reward",
        "reward",
        "eval_reward",
        band="reward_std",
        heading="Rewards",
        kind="value",
        axis="reward",
        log=False,
        limit="max_reward",
        limit_label="maximum",
    ),
    Chart(
        "reward_std",
        "Spread of rewards",
        "reward_std",
        heading="Rewards",
        kind="value",
        axis="std. deviation",
        log=False,
    ),
    Chart(
        "reward_functions",
        "Reward by function",
        prefix="rewards/",
        suffix="/mean",
        heading="Rewards",
        kind="value",
        axis="mean score",
        log=False,
    ),
    Chart(
        "eval_reward_functions",
        "Reward by function, held out",
        prefix="eval_rewards/",
        suffix="/mean",
        heading="Rewards",
        kind="value",
        axis="mean score",
        log=False,
    ),
    Chart(
        "reward_function_spread",
        "Spread by function",
        prefix="rewards/",
        suffix="/std",
        heading="Rewards",
        kind="value",
        axis="std. deviation",
        log=False,
    ),
    Chart(
        "no_spread",
        "Prompts with equal rewards",
        "frac_reward_zero_std",
        heading="Rewards",
        kind="share",
        axis="% of prompts",
        log=False,
        limit="alert_no_spread",
        limit_label="alert",
    ),
)

PREFERENCE = (
    Chart(
        "margins",
        "Margin of the better answer",
        "rewards/margins",
        "eval_rewards/margins",
        heading="Preference",
        kind="value",
        axis="reward",
        log=False,
    ),
    Chart(
        "accuracies",
        "Better answer preferred",
        "rewards/accuracies",
        "eval_rewards/accuracies",
        heading="Preference",
        kind="share",
        axis="% of pairs",
        log=False,
    ),
    Chart(
        "chosen",
        "Reward of better answers",
        "rewards/chosen",
        "eval_rewards/chosen",
        heading="Preference",
        kind="value",
        axis="reward",
        log=False,
    ),
    Chart(
        "rejected",
        "Reward of worse answers",
        "rewards/rejected",
        "eval_rewards/rejected",
        heading="Preference",
        kind="value",
        axis="reward",
        log=False,
    ),
    Chart(
        "logps_chosen",
        "Log-probability of better answers",
        "logps/chosen",
        "eval_logps/chosen",
        heading="Preference",
        axis="log-prob.",
        log=False,
    ),
    Chart(
        "logps_rejected",
        "Log-probability of worse answers",
        "logps/rejected",
        "eval_logps/rejected",
        heading="Preference",
        axis="log-prob.",
        log=False,
    ),
    Chart(
        "scorer_accuracy",
        "Better answer scored higher",
        "accuracy",
        "eval_accuracy",
        heading="Preference",
        kind="share",
        axis="% of pairs",
        log=False,
    ),
    Chart(
        "margin",
        "Margin of scores",
        "margin",
        "eval_margin",
        heading="Preference",
        kind="value",
        axis="score",
        log=False,
    ),
    Chart(
        "mean_reward",
        "Mean score",
        "mean_reward",
        "eval_mean_reward",
        heading="Preference",
        kind="value",
        axis="score",
        log=False,
    ),
)

POLICY = (
    Chart(
        "kl",
        "KL from the reference",
        "kl",
        "eval_kl",
        heading="Policy",
        kind="loss",
        axis="nats per token",
        log=False,
    ),
    Chart(
        "clip_ratio",
        "Tokens clipped",
        "clip_ratio/region_mean",
        heading="Policy",
        kind="share",
        axis="% of tokens",
        log=False,
    ),
    Chart(
        "policy_loss",
        "Policy loss",
        "policy_loss",
        heading="Policy",
        kind="loss",
        axis="loss",
        log=False,
    ),
    Chart("value_loss", "Value loss", "value_loss", heading="Policy", kind="loss", axis="loss"),
    Chart(
        "explained_variance",
        "Predicted rewards",
        "explained_variance",
        heading="Policy",
        kind="value",
        axis="explained",
        log=False,
    ),
    Chart(
        "return", "Mean return", "return", heading="Policy", kind="value", axis="reward", log=False
    ),
)

ANSWERS = (
    Chart(
        "completion_length",
        "Answer length",
        "completions/mean_length",
        "eval_completions/mean_length",
        heading="Answers",
        unit="tokens",
        axis="tokens",
        log=False,
        limit="max_completion_tokens",
        limit_label="limit",
    ),
    Chart(
        "cut_off",
        "Answers cut off",
        "completions/clipped_ratio",
        "eval_completions/clipped_ratio",
        heading="Answers",
        kind="share",
        axis="% of answers",
        log=False,
        limit="alert_cut_off",
        limit_label="alert",
    ),
    Chart(
        "unscored",
        "Answers without a score",
        "rewards/unscored",
        heading="Answers",
        kind="share",
        axis="% of answers",
        log=False,
    ),
)

DEVICE = (
    Chart(
        "samples_per_second",
        "Rows a second",
        "samples_per_second",
        heading="Device",
        unit="rows/s",
        axis="rows/s",
    ),
    Chart(
        "peak_memory_gb",
        "Peak memory",
        "peak_memory_gb",
        heading="Device",
        unit="GB",
        axis="GB",
        log=False,
        limit="memory_gb",
        limit_label="device",
    ),
)

CHARTS = (*TRAINING, *QUALITY, *REWARDS, *PREFERENCE, *POLICY, *ANSWERS, *DEVICE)

# Of a train that learns from rewards: what stands at the top of its page, in this order.
REWARD_PLACES = {
    "reward": "main",
    "reward_functions": "side",
    "kl": "row",
    "completion_length": "row",
    "cut_off": "row",
    "no_spread": "row",
}
REWARD_HEADINGS = {
    "unscored": "Rewards",
    "entropy": "Policy",
    "loss": "Training",
    "learning_rate": "Training",
    "grad_norm": "Training",
    "tokens_per_second": "Device",
}

# Counted up or constant, shown elsewhere on the page, or the edges of what is charted.
EDGES = (
    "completions/min_length",
    "completions/max_length",
    "completions/mean_terminated_length",
    "completions/min_terminated_length",
    "completions/max_terminated_length",
    "clip_ratio/low_mean",
    "clip_ratio/low_min",
    "clip_ratio/high_mean",
    "clip_ratio/high_max",
    "logits/chosen",
    "logits/rejected",
    "min_reward",
    "max_reward",
)
NOT_CHARTED = (
    "num_tokens",
    "eval_num_tokens",
    "epoch",
    "eval_runtime",
    "total_flos",
    "step",
    "eval_reward_std",
    *EDGES,
    *(f"eval_{name}" for name in EDGES),
)


def charts_table(objective: Objective = LOSS) -> list[dict[str, Any]]:
    """The charts in the order of the page; what the train is judged by stands first and large."""
    if objective == LOSS:
        return [asdict(chart) for chart in CHARTS]

    by_name = {chart.name: chart for chart in CHARTS}
    top = [replace(by_name[name], place=place, heading="") for name, place in REWARD_PLACES.items()]
    rest = [
        replace(chart, place="", heading=REWARD_HEADINGS.get(chart.name, chart.heading))
        for chart in CHARTS
        if chart.name not in REWARD_PLACES
    ]

    order = {
        heading: index
        for index, heading in enumerate(("Rewards", "Policy", "Answers", "Training", "Quality"))
    }
    rest.sort(key=lambda chart: order.get(chart.heading, len(order)))

    return [asdict(chart) for chart in [*top, *rest]]
