"""Which of several trains did best, as far as they can be compared: one sentence with its number,
one with the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from core.templatetags import display
from core.text import counted
from engine.schema.registry import REWARD, Objective
from jobs.durations import run_seconds
from training.models import TrainRun
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
    """Trains are ranked by their best evaluation after a step of training: the score of the
    untrained model is not theirs."""
    remarks = _still_active(trains)

    objectives = {run.objective for run in trains}
    if len(objectives) > 1:
        titles = sorted(objective.title.lower() for objective in objectives)
        return Verdict(
            "These trains are judged by different measures.",
            f"Some by {' and '.join(titles)}: read their curves and answers side by side.{remarks}",
        )

    (objective,) = objectives
    remarks = _never_better(trains, objective) + remarks
    measure = f"eval {objective.title.lower()}"

    ranked = [run for run in trains if has_learned(run)]
    ranked.sort(key=lambda run: (_rank(run, objective), run.pk))

    if len(ranked) < FEWEST_RANKED:
        return Verdict(
            f"There is no {measure} to rank them by.",
            f"Compare the train {objective.title.lower()} instead.{remarks}",
        )

    if not measured_alike(ranked):
        first = ranked[0]
        most = "highest" if objective.higher_is_better else "lowest"
        return Verdict(
            f"#{first.pk} has the {most} {measure}, {first.best_value:.3f}, but it is not "
            "comparable.",
            "These trains were measured on different rows or in different ways, so their numbers "
            f"say little about each other.{remarks}",
        )

    return _best_of(ranked, objective, remarks)


def _still_active(trains: list[TrainRun]) -> str:
    for run in trains:
        if not run.ended:
            return f" #{run.pk} has not ended yet."

    return ""


def has_learned(run: TrainRun) -> bool:
    """Whether its best evaluation is of a model that had been trained."""
    return run.best_value is not None and bool(run.best_step)


def _rank(run: TrainRun, objective: Objective) -> float:
    assert run.best_value is not None
    return -run.best_value if objective.higher_is_better else run.best_value


def _never_better(trains: list[TrainRun], objective: Objective) -> str:
    """Names trains whose best evaluation is the one before their first step."""
    untrained = [run for run in trains if run.best_value is not None and run.best_step == 0]
    if not untrained:
        return ""

    names = " and ".join(f"#{run.pk}" for run in untrained)
    has = "has" if len(untrained) == 1 else "have"
    return f" {names} {has} no eval {objective.title.lower()} better than before training."


def _best_of(ranked: list[TrainRun], objective: Objective, remarks: str) -> Verdict:
    best = ranked[0]
    second = ranked[1]
    assert best.best_value is not None
    assert second.best_value is not None

    value = f"{best.best_value:.3f}"
    gap = f"{abs(second.best_value - best.best_value):.3f}"
    title = f"eval {objective.title.lower()}"
    rows = best.facts.get("eval_rows")

    if objective.higher_is_better:
        measure = f"highest {title}"
        beyond = "below"
    else:
        measure = f"lowest {title}"
        beyond = "above"

    if rows is not None and rows < FEWEST_HELD_OUT_ROWS:
        return Verdict(
            f"Too few held-out rows to say which is best: {rows:,}.",
            f"#{best.pk} has the {measure}, {value}, {gap} from #{second.pk}; on "
            f"{counted(rows, 'row')} that may be chance.{remarks}",
        )

    ending = ", then gets worse" if _got_worse(best, objective) else ""
    time_difference = _time_difference(best, second)

    return Verdict(
        f"#{best.pk} reaches the {measure}, {value} at step {best.best_step:,}{ending}.",
        f"#{second.pk} is next, {gap} {beyond} it{time_difference}.{remarks}",
        best,
    )


def _got_worse(run: TrainRun, objective: Objective) -> bool:
    """Whether the last evaluation is clearly worse than the best."""
    final = run.last_evaluation.get(objective.evaluation)
    if final is None or run.best_value is None:
        return False

    loss = run.best_value - final if objective.higher_is_better else final - run.best_value
    return bool(loss > RISEN * abs(run.best_value))


def _time_difference(best: TrainRun, second: TrainRun) -> str:
    """How much less or more time the second took, where both have ended."""
    if not (best.ended and second.ended):
        return ""

    best_seconds = run_seconds(best)
    second_seconds = run_seconds(second)
    if not best_seconds or not second_seconds or abs(best_seconds - second_seconds) < 1:
        return ""

    difference = display.duration(abs(best_seconds - second_seconds))
    word = "less" if second_seconds < best_seconds else "more"
    return f", in {difference} {word}"


# Which rows are held out of a train's own data.
HELD_OUT = ("evaluation_split", "seed", "max_samples")
# Settings, besides the weights, that the result of an evaluation depends on.
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


def settings_of_measure(metric: str, *, own_split: bool) -> frozenset[str]:
    """Names of settings beside which values of `metric` say nothing about each other where they
    differ. own_split: whether the rows that it is measured on are a share of the train's own."""
    names: set[str] = set()
    if own_split and metric.startswith("eval_"):
        names.update(HELD_OUT)

    names.update(OF_REWARD if metric in (REWARD.train, REWARD.evaluation) else OF_LOSS)
    return frozenset(names)


def measured_alike(trains: list[TrainRun]) -> bool:
    """Whether evaluations are of the same rows by the same measure: losses of two methods are
    different things."""
    measurements = {(_held_out(run), _measure(run)) for run in trains}
    return len(measurements) == 1


def _held_out(run: TrainRun) -> tuple[Any, ...]:
    """The rows that a train is measured on: evaluation data, or a share of its own data."""
    if run.evaluation_dataset_id is not None:
        return ("own", run.evaluation_dataset_id)

    split = [run.parameters.get(name) for name in HELD_OUT]
    return ("split", run.dataset_id, *split)


def _measure(run: TrainRun) -> tuple[str, str]:
    """What the number is: a reward by the same functions is one thing whatever the method, a loss
    is its method's."""
    names: tuple[str, ...]
    if run.objective.higher_is_better:
        names = OF_REWARD
        method = ""
    else:
        names = OF_LOSS
        method = run.method.recipe or run.method.slug

    settings = {name: run.parameters.get(name) for name in names}
    return method, json.dumps(settings, sort_keys=True, default=str)


def comparability(trains: list[TrainRun]) -> str:
    """Whether the numbers of the evaluations can be compared, and if not why, in one sentence."""
    measured = [run for run in trains if run.best_value is not None]
    if not measured:
        return "None of these trains has been measured on held-out rows."

    if len(measured) < len(trains):
        count = counted(len(trains), "train")
        was = "was" if len(measured) == 1 else "were"
        return f"Only {len(measured)} of these {count} {was} measured on held-out rows."

    titles = {run.objective.title.lower() for run in trains}
    what = "evaluations"
    if len(titles) == 1:
        what = f"eval {titles.pop()}"

    rows = {_held_out(run) for run in trains}
    measures = {_measure(run) for run in trains}

    if len(rows) > 1:
        return f"Measured on different rows: compare {what} with care."
    if len(measures) > 1:
        return f"Measured in different ways, by method or settings, so {what} cannot be compared."

    return f"Measured on the same held-out rows, so {what} can be compared."
