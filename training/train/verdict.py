"""Which of several trains did best, as far as they can be compared: one sentence with its number,
one with the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from core.templatetags import display
from core.text import counted
from engine.schema.registry import Objective
from training.models import TrainRun
from training.train.durations import run_seconds
from training.train.judgement import FEWEST_HELD_OUT_ROWS

FEWEST_RANKED = 2
# A rise over the best by this share is more than noise.
RISEN = 0.01


@dataclass(frozen=True)
class Verdict:
    headline: str
    text: str
    best: TrainRun | None = None

    def for_api(self) -> dict[str, Any]:
        return {
            "headline": self.headline,
            "text": self.text,
            "best": self.best.pk if self.best else None,
        }


def verdict(trains: list[TrainRun]) -> Verdict:
    """Trains are ranked by their best evaluation after a step of training: what the untrained model
    scores is no merit of theirs."""
    active = [run for run in trains if not run.ended]
    beside = f" #{active[0].pk} has not ended yet." if active else ""

    objectives = {run.objective for run in trains}
    if len(objectives) > 1:
        names = " and ".join(sorted(objective.title.lower() for objective in objectives))
        return Verdict(
            "These trains are judged by different measures.",
            f"Some by {names}: read their curves and answers side by side.{beside}",
        )

    (objective,) = objectives
    beside = _never_better(trains, objective) + beside
    ranked = sorted(
        (run for run in trains if has_learned(run)), key=lambda run: (_rank(run, objective), run.pk)
    )
    what = f"eval {objective.title.lower()}"

    if len(ranked) < FEWEST_RANKED:
        return Verdict(
            f"There is no {what} to rank them by.",
            f"Compare the train {objective.title.lower()} instead.{beside}",
        )

    if not measured_alike(ranked):
        most = "highest" if objective.higher_is_better else "lowest"
        return Verdict(
            f"#{ranked[0].pk} has the {most} {what}, {ranked[0].best_value:.3f}, but it is not "
            "comparable.",
            "These trains were measured on different rows or in different ways, so their numbers "
            "say little about each "
            f"other.{beside}",
        )

    return _best_of(ranked, objective, beside)


def has_learned(run: TrainRun) -> bool:
    """Whether its best evaluation is of a model that had been trained."""
    return run.best_value is not None and bool(run.best_step)


def _rank(run: TrainRun, objective: Objective) -> float:
    assert run.best_value is not None
    return -run.best_value if objective.higher_is_better else run.best_value


def _never_better(trains: list[TrainRun], objective: Objective) -> str:
    """Names trains whose best evaluation is that before their first step."""
    untrained = [run for run in trains if run.best_value is not None and run.best_step == 0]
    names = " and ".join(f"#{run.pk}" for run in untrained)

    if not untrained:
        return ""

    has = "has" if len(untrained) == 1 else "have"
    return f" {names} {has} no eval {objective.title.lower()} better than before training."


def _best_of(ranked: list[TrainRun], objective: Objective, beside: str) -> Verdict:
    best, second = ranked[0], ranked[1]
    assert best.best_value is not None
    assert second.best_value is not None
    what = f"eval {objective.title.lower()}"
    gap = abs(second.best_value - best.best_value)
    most, beyond = ("highest", "below") if objective.higher_is_better else ("lowest", "above")

    rows = best.facts.get("eval_rows")
    if rows is not None and rows < FEWEST_HELD_OUT_ROWS:
        return Verdict(
            f"Too few held-out rows to say which is best: {rows:,}.",
            f"#{best.pk} has the {most} {what}, {best.best_value:.3f}, {gap:.3f} from "
            f"#{second.pk}; on "
            f"{counted(rows, 'row')} that may be chance.{beside}",
        )

    final = best.last_evaluation.get(objective.evaluation)
    sign = -1 if objective.higher_is_better else 1
    is_worse = final is not None and sign * (final - best.best_value) > RISEN * abs(best.best_value)
    where = f"{best.best_value:.3f} at step {best.best_step:,}"
    headline = (
        f"#{best.pk} reaches the {most} {what}, {where}{', then gets worse' if is_worse else ''}."
    )

    return Verdict(
        headline,
        f"#{second.pk} is next, {gap:.3f} {beyond} it{_sooner(best, second)}.{beside}",
        best,
    )


def _sooner(best: TrainRun, second: TrainRun) -> str:
    """How much less or more time the second took, where both have ended."""
    if not (best.ended and second.ended):
        return ""

    seconds = [run_seconds(run) or 0.0 for run in (best, second)]
    if not all(seconds) or abs(seconds[0] - seconds[1]) < 1:
        return ""

    return (
        f", in {display.duration(abs(seconds[0] - seconds[1]))} "
        f"{'less' if seconds[1] < seconds[0] else 'more'}"
    )


# Which rows are held out of a train's own data.
HELD_OUT = ("evaluation_split", "seed", "max_samples")
# Settings that an evaluation's number depends on, beside the weights.
OF_LOSS = (
    "max_tokens",
    "answers_only",
    "beta",
    "loss_type",
    "label_smoothing",
    "desirable_weight",
    "undesirable_weight",
)
OF_REWARD = ("rewards", "max_prompt_tokens", "max_completion_tokens")


def measured_alike(trains: list[TrainRun]) -> bool:
    """Whether evaluations are of the same rows by the same measure: losses of two methods are
    different things."""
    return len({(_held_out(run), _measure(run)) for run in trains}) == 1


def _held_out(run: TrainRun) -> tuple[Any, ...]:
    """The rows that a train is measured on: evaluation data, or a share of its own data."""
    if run.evaluation_dataset_id is not None:
        return ("own", run.evaluation_dataset_id)

    return ("split", run.dataset_id, *(run.parameters.get(name) for name in HELD_OUT))


def _measure(run: TrainRun) -> tuple[str, str]:
    """What the number is: a reward by the same functions is one thing whatever the method, a loss
    is its method's."""
    is_reward = run.objective.higher_is_better
    names = OF_REWARD if is_reward else OF_LOSS
    chosen = {name: run.parameters.get(name) for name in names}
    method = "" if is_reward else run.method.recipe or run.method.slug

    return method, json.dumps(chosen, sort_keys=True, default=str)


def comparability(trains: list[TrainRun]) -> str:
    """Whether the numbers of the evaluations can be compared, and if not why, in one sentence."""
    measured = [run for run in trains if run.best_value is not None]
    names = {f"eval {run.objective.title.lower()}" for run in trains}
    what = names.pop() if len(names) == 1 else "evaluations"

    if not measured:
        return "None of these trains has been measured on held-out rows."

    if len(measured) < len(trains):
        count = counted(len(trains), "train")
        return (
            f"Only {len(measured)} of these {count} {_was(len(measured))} measured on held-out "
            "rows."
        )

    if len({_held_out(run) for run in trains}) > 1:
        return f"Measured on different rows: compare {what} with care."
    if len({_measure(run) for run in trains}) > 1:
        return f"Measured in different ways, by method or settings, so {what} cannot be compared."

    return f"Measured on the same held-out rows, so {what} can be compared."


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
