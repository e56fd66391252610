"""Trains side by side: which parameters differ, how each came out, and which did best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.requests import integer_of
from core.templatetags import display
from engine.contract.rundir import MODEL, folder_size
from methods.schema import Field, method_fields
from training.models import TrainRun
from training.train.durations import run_seconds
from training.train.verdict import measured_alike

FEWEST_TRAINS, MOST_TRAINS = 2, 8

INGREDIENTS = {
    "method": "Method",
    "base_model": "Base model",
    "dataset": "Dataset",
    "evaluation_dataset": "Evaluation dataset",
    "system_prompt": "System prompt",
}


def ids_parse(text: str) -> list[int]:
    """ "3,5,8" as ids, each once, in order; what is no id is left out."""
    parts = [part.strip() for part in text.split(",")]
    numbers = [integer_of(part) for part in parts]
    return list(dict.fromkeys(number for number in numbers if number is not None))


def settings_of(run: TrainRun) -> dict[str, Any]:
    """Everything that was chosen for a train, by name."""
    return {
        "method": run.method.name,
        "base_model": run.base_model.name,
        "dataset": run.dataset.name,
        "evaluation_dataset": run.evaluation_dataset.name if run.evaluation_dataset else None,
        "system_prompt": run.system_prompt,
        **run.parameters,
    }


def outcomes_of(run: TrainRun) -> dict[str, Any]:
    """Measures of an ended or running train; None for what it does not have."""
    metrics = run.last_metrics
    folder = run.directory / MODEL
    # What the model scored before it was trained is nothing that the train came to.
    best = run.best_value if run.best_step else None

    return {
        "best_eval_loss": None if run.objective.higher_is_better else best,
        "best_eval_reward": best if run.objective.higher_is_better else None,
        "final_eval_loss": run.last_evaluation.get("eval_loss"),
        "final_loss": metrics.get("loss"),
        "final_reward": metrics.get("reward"),
        "eval_preferred": run.last_evaluation.get(
            "eval_rewards/accuracies", run.last_evaluation.get("eval_accuracy")
        ),
        "eval_margin": run.last_evaluation.get(
            "eval_rewards/margins", run.last_evaluation.get("eval_margin")
        ),
        "steps": run.step,
        "duration_seconds": run_seconds(run) if run.ended else None,
        "tokens_per_second": metrics.get("tokens_per_second"),
        "peak_memory_gb": metrics.get("peak_memory_gb"),
        "model_bytes": folder_size(folder) if folder.is_dir() else None,
    }


def comparison(trains: list[TrainRun]) -> dict[str, Any]:
    """{"differences": {name: {id: value}}, "outcomes": {measure: {id: value}}}, ids as strings as
    JSON has them."""
    chosen = {str(run.pk): settings_of(run) for run in trains}
    measured = {str(run.pk): outcomes_of(run) for run in trains}
    names = list(dict.fromkeys(name for values in chosen.values() for name in values))
    rows = {name: {pk: values.get(name) for pk, values in chosen.items()} for name in names}
    first = str(trains[0].pk)

    return {
        "differences": {
            name: row
            for name, row in rows.items()
            if any(value != row[first] for value in row.values())
        },
        "outcomes": {
            name: {pk: values[name] for pk, values in measured.items()}
            for name in outcomes_of(trains[0])
        },
    }


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
    fields = [method_fields(run.method) for run in trains]
    base = chosen[trains.index(baseline)]
    names = dict.fromkeys(name for values in chosen for name in values)

    rows = []

    for name in names:
        cells = [
            _setting_cell(name, values, known.get(name), base)
            for values, known in zip(chosen, fields, strict=True)
        ]
        field = next((known[name] for known in fields if name in known), None)
        title = field.title if field else INGREDIENTS.get(name, name)
        rows.append(Row(title, cells, same=not any(cell.mark for cell in cells)))

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
        lambda value: f"{value:.1f} GB" if value else display.MISSING,
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

        is_ranked = alike or name not in MEASURED
        best = _best(values, has_finished, better) if is_ranked else None
        cells = [
            Cell(written(value), finished and best is not None and value == best)
            for value, finished in zip(values, has_finished, strict=True)
        ]
        rows.append(Row(title, cells))

    return rows


def _best(values: list[Any], has_finished: list[bool], better: str) -> Any:
    """The best value of the finished trains; None where they are all the same, or neither end is
    better."""
    ranked = [
        value
        for value, finished in zip(values, has_finished, strict=True)
        if finished and value is not None
    ]

    if len(set(ranked)) < FEWEST_TRAINS:
        return None

    return {"low": min(ranked), "high": max(ranked)}.get(better)
