"""Trains side by side: which parameters differ, how each came out, and which did best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.requests import integer_of
from core.templatetags import display
from engine.contract.rundir import MODEL, folder_size
from jobs.durations import run_seconds
from methods.schema import Field, method_fields
from training.models import TrainRun
from training.train.launching import launcher_title
from training.train.verdict import measured_alike

FEWEST_TRAINS, MOST_TRAINS = 2, 8

INGREDIENTS = {
    "method": "Method",
    "base_model": "Base model",
    "continue_adapter": "Continues its adapter",
    "dataset": "Dataset",
    "evaluation_dataset": "Evaluation dataset",
    "system_prompt": "System prompt",
    "launcher": "Asked to run on",
}


def ids_parse(text: str) -> list[int]:
    """ "3,5,8" as ids, each once, in order; what is no id is left out."""
    numbers = [integer_of(part.strip()) for part in text.split(",")]
    ids = [number for number in numbers if number is not None]
    return list(dict.fromkeys(ids))


def settings_of(run: TrainRun) -> dict[str, Any]:
    """Everything that was chosen for a train, by name."""
    return {
        "method": run.method.name,
        "base_model": run.base_model.title,
        "continue_adapter": run.continue_adapter,
        "dataset": run.dataset.name,
        "evaluation_dataset": run.evaluation_dataset.name if run.evaluation_dataset else None,
        "system_prompt": run.system_prompt,
        "launcher": launcher_title(run.launcher),
        **run.parameters,
    }


def outcomes_of(run: TrainRun) -> dict[str, Any]:
    """Measures of an ended or running train; None for what it does not have."""
    metrics = run.last_metrics
    evaluation = run.last_evaluation
    folder = run.directory / MODEL
    # What the model scored before it was trained is no outcome of the train.
    best = run.best_value if run.best_step else None
    learns_by_reward = run.objective.higher_is_better

    return {
        "best_eval_loss": None if learns_by_reward else best,
        "best_eval_reward": best if learns_by_reward else None,
        "final_eval_loss": evaluation.get("eval_loss"),
        "final_loss": metrics.get("loss"),
        "final_reward": metrics.get("reward"),
        "eval_preferred": first_of(evaluation, "eval_rewards/accuracies", "eval_accuracy"),
        "eval_margin": first_of(evaluation, "eval_rewards/margins", "eval_margin"),
        "steps": run.step,
        "duration_seconds": run_seconds(run) if run.ended else None,
        "tokens_per_second": metrics.get("tokens_per_second"),
        "peak_memory_gb": metrics.get("peak_memory_gb"),
        "model_bytes": folder_size(folder) if folder.is_dir() else None,
    }


def first_of(metrics: dict[str, Any], *names: str) -> Any:
    """The metric by the first of these names that there is: methods name the same thing
    differently."""
    return next((metrics[name] for name in names if name in metrics), None)


def comparison(trains: list[TrainRun]) -> dict[str, Any]:
    """{"differences": {name: {id: value}}, "outcomes": {measure: {id: value}}}, ids as strings as
    JSON has them."""
    chosen = {str(run.pk): settings_of(run) for run in trains}
    differences = {}

    for name in every_name(list(chosen.values())):
        row = {pk: values.get(name) for pk, values in chosen.items()}
        first, *others = row.values()
        if any(value != first for value in others):
            differences[name] = row

    measured = {str(run.pk): outcomes_of(run) for run in trains}
    outcomes = {}

    for name in outcomes_of(trains[0]):
        outcomes[name] = {pk: values[name] for pk, values in measured.items()}

    return {"differences": differences, "outcomes": outcomes}


def every_name(chosen: list[dict[str, Any]]) -> list[str]:
    """The names of all settings, each once, in order of first appearance."""
    names: dict[str, None] = {}
    for values in chosen:
        names |= dict.fromkeys(values)

    return list(names)


@dataclass(frozen=True)
class Cell:
    """`mark`: the value differs from the baseline's, or is the best of its row. `unit`: of this
    train's own method."""

    text: str
    mark: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    cells: list[Cell]
    same: bool = False


def setting_rows(trains: list[TrainRun], baseline: TrainRun) -> list[Row]:
    """A row for everything that was chosen; values that differ from the baseline's are marked."""
    chosen = [settings_of(run) for run in trains]
    fields_of_each = [method_fields(run.method) for run in trains]
    base = chosen[trains.index(baseline)]
    rows = []

    for name in every_name(chosen):
        title = INGREDIENTS.get(name, name)
        cells = []

        for values, fields in zip(chosen, fields_of_each, strict=True):
            field = fields.get(name)
            if field is not None and title == name:
                title = field.title

            cells.append(_setting_cell(name, values, field, base))

        is_same = not any(cell.mark for cell in cells)
        rows.append(Row(title, cells, same=is_same))

    return rows


def _setting_cell(
    name: str, values: dict[str, Any], field: Field | None, base: dict[str, Any]
) -> Cell:
    """What another method does not have at all is no value of it."""
    differs = values.get(name) != base.get(name)

    if name not in values:
        return Cell(display.MISSING, differs)

    value = values[name]
    field = field or field_unknown(name)
    return Cell(field.shown(value), differs, field.unit_of(value))


def field_unknown(name: str) -> Field:
    """For what a train was made of besides its parameters, and for parameters that its method had
    once."""
    return Field(name=name, title=name, help="", kind="text", default=None)


# (measure, title, how it is written, which is better: "low", "high" or neither)
MEASURES: tuple[tuple[str, str, Callable[[Any], str], str], ...] = (
    ("best_eval_loss", "Best eval loss", display.loss, "low"),
    ("best_eval_reward", "Best eval reward", display.loss, "high"),
    ("final_reward", "Last reward", display.loss, "high"),
    ("eval_preferred", "Better answers preferred, held out", display.share, "high"),
    ("eval_margin", "Margin of better answers, held out", display.loss, "high"),
    ("final_eval_loss", "Last eval loss", display.loss, "low"),
    ("final_loss", "Last train loss", display.loss, "low"),
    ("steps", "Steps", display.thousands, ""),
    ("duration_seconds", "Duration", display.duration, "low"),
    ("tokens_per_second", "Tokens a second", display.thousands, "high"),
    (
        "peak_memory_gb",
        "Peak memory",
        display.gigabytes,
        "low",
    ),
    ("model_bytes", "Model size", display.size, "low"),
)


# Numbers that say something about each other only where they were measured alike.
MEASURED = (
    "best_eval_loss",
    "best_eval_reward",
    "final_reward",
    "eval_preferred",
    "eval_margin",
    "final_eval_loss",
    "final_loss",
)


def outcome_rows(trains: list[TrainRun]) -> list[Row]:
    """A row for each measure that at least one train has, its best marked (both, where two are
    level).

    Only trains that finished are ranked: one that failed early is not the fastest.
    """
    measured = [outcomes_of(run) for run in trains]
    has_finished = [run.status == TrainRun.Status.FINISHED for run in trains]
    alike = measured_alike(trains)

    rows = []

    for name, title, written, better in MEASURES:
        values = [outcomes[name] for outcomes in measured]
        if all(value is None for value in values):
            continue

        best = None
        if alike or name not in MEASURED:
            best = _best(values, has_finished, better)

        cells = []

        for value, finished in zip(values, has_finished, strict=True):
            is_best = finished and best is not None and value == best
            cells.append(Cell(written(value), is_best))

        rows.append(Row(title, cells))

    if any(run.devices_text for run in trains):
        rows.append(Row("Ran on", [Cell(run.devices_text or display.MISSING) for run in trains]))

    return rows


def _best(values: list[Any], has_finished: list[bool], better: str) -> Any:
    """The best value of the finished trains; None where they are all the same, or neither end is
    better."""
    ranked = []
    for value, finished in zip(values, has_finished, strict=True):
        if finished and value is not None:
            ranked.append(value)

    if len(set(ranked)) < FEWEST_TRAINS:
        return None
    if better == "low":
        return min(ranked)
    if better == "high":
        return max(ranked)

    return None
