"""Trains side by side: which parameters differ, how each came out, and which did best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.templatetags import display
from engine.rundir import MODEL, folder_size
from methods.field_text import shown_text
from methods.schema import Field, method_fields
from training.models import TrainRun

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
    ids = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 19]
    return list(dict.fromkeys(ids))


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
    seconds = (run.finished_at - run.started_at).total_seconds() if run.finished_at and run.started_at else None
    return {
        "best_eval_loss": None if run.objective.higher_is_better else run.best_value,
        "best_eval_reward": run.best_value if run.objective.higher_is_better else None,
        "final_eval_loss": run.last_evaluation.get("eval_loss"),
        "final_loss": metrics.get("loss"),
        "final_reward": metrics.get("reward"),
        "eval_preferred": run.last_evaluation.get("eval_rewards/accuracies", run.last_evaluation.get("eval_accuracy")),
        "eval_margin": run.last_evaluation.get("eval_rewards/margins", run.last_evaluation.get("eval_margin")),
        "steps": run.step,
        "duration_seconds": seconds,
        "tokens_per_second": metrics.get("tokens_per_second"),
        "peak_memory_gb": metrics.get("peak_memory_gb"),
        "model_bytes": folder_size(folder) if folder.is_dir() else None,
    }


def comparison(trains: list[TrainRun]) -> dict[str, Any]:
    """{"differences": {name: {id: value}}, "outcomes": {measure: {id: value}}}, ids as strings as JSON has them."""
    chosen = {str(run.pk): settings_of(run) for run in trains}
    measured = {str(run.pk): outcomes_of(run) for run in trains}
    names = list(dict.fromkeys(name for values in chosen.values() for name in values))
    rows = {name: {pk: values.get(name) for pk, values in chosen.items()} for name in names}
    first = str(trains[0].pk)
    return {
        "differences": {name: row for name, row in rows.items() if any(value != row[first] for value in row.values())},
        "outcomes": {name: {pk: values[name] for pk, values in measured.items()} for name in outcomes_of(trains[0])},
    }


@dataclass(frozen=True)
class Cell:
    """`mark`: the value differs from the baseline's, or is the best of its row."""

    text: str
    mark: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    unit: str
    cells: list[Cell]
    same: bool = False


def setting_rows(trains: list[TrainRun], baseline: TrainRun) -> list[Row]:
    """A row for everything that was chosen; values that differ from the baseline's are marked."""
    chosen = [settings_of(run) for run in trains]
    fields: dict[str, Field] = {}
    for run in trains:
        fields |= method_fields(run.method)
    base = chosen[trains.index(baseline)]
    rows = []
    for name in dict.fromkeys(name for values in chosen for name in values):
        field = fields.get(name)
        cells = [
            # What another method does not have at all is no value of it.
            Cell(
                setting_text(field, values[name]) if name in values else display.MISSING,
                values.get(name) != base.get(name),
            )
            for values in chosen
        ]
        title = field.title if field else INGREDIENTS.get(name, name)
        rows.append(Row(title, field.unit if field else "", cells, same=not any(cell.mark for cell in cells)))
    return rows


def setting_text(field: Field | None, value: Any) -> str:
    if field is not None:
        return shown_text(field, value)
    return str(value) if value not in (None, "") else display.MISSING


# (measure, title, how it is written, which is better: "low", "high" or neither)
MEASURES: tuple[tuple[str, str, Callable[[Any], str], str], ...] = (
    ("best_eval_loss", "Best eval loss", display.loss, "low"),
    ("best_eval_reward", "Best eval reward", display.loss, "high"),
    ("final_reward", "Final reward", display.loss, "high"),
    ("eval_preferred", "Better answers preferred, held out", display.share, "high"),
    ("eval_margin", "Margin of better answers, held out", display.loss, "high"),
    ("final_eval_loss", "Final eval loss", display.loss, "low"),
    ("final_loss", "Final train loss", display.loss, "low"),
    ("steps", "Steps", display.thousands, ""),
    ("duration_seconds", "Duration", display.duration, "low"),
    ("tokens_per_second", "Tokens a second", display.thousands, "high"),
    ("peak_memory_gb", "Peak memory", lambda value: f"{value:.1f} GB" if value else display.MISSING, "low"),
    ("model_bytes", "Model size", display.size, "low"),
)


def outcome_rows(trains: list[TrainRun]) -> list[Row]:
    """A row for each measure that at least one train has, its best marked (both, where two are level).

    Only trains that finished are ranked: one that failed early is not the fastest.
    """
    measured = [outcomes_of(run) for run in trains]
    rows = []
    for name, title, written, better in MEASURES:
        values = [outcomes[name] for outcomes in measured]
        if all(value is None for value in values):
            continue
        ends = [run.status == TrainRun.Status.FINISHED for run in trains]
        ranked = [value for value, ended in zip(values, ends, strict=True) if ended and value is not None]
        best = {"low": min(ranked), "high": max(ranked)}.get(better) if len(set(ranked)) > 1 else None
        cells = [
            Cell(written(value), ended and best is not None and value == best)
            for value, ended in zip(values, ends, strict=True)
        ]
        rows.append(Row(title, "", cells))
    return rows


def measured_alike(trains: list[TrainRun]) -> bool:
    """Whether evaluation losses are of the same rows: the same evaluation data, or the same share of the same data."""
    return len({_held_out(run.evaluation_dataset_id, run.dataset_id, run.parameters) for run in trains}) == 1


def _held_out(evaluation_id: int | None, dataset_id: int, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    if evaluation_id is not None:
        return ("own", evaluation_id, parameters.get("max_tokens"))
    chosen = ("evaluation_split", "seed", "max_samples", "max_tokens")
    return ("split", dataset_id, *(parameters.get(name) for name in chosen))


@dataclass(frozen=True)
class Verdict:
    headline: str
    text: str
    best: TrainRun | None = None


def verdict(trains: list[TrainRun]) -> Verdict:
    """Which train did best, with its number, and how close the next one comes."""
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
    what, sign = f"eval {objective.title.lower()}", -1 if objective.higher_is_better else 1
    ranked = sorted(
        (run for run in trains if run.best_value is not None), key=lambda run: (sign * (run.best_value or 0), run.pk)
    )
    if len(ranked) < FEWEST_TRAINS:
        return Verdict(
            f"There is no {what} to rank them by.", f"Compare the train {objective.title.lower()} instead.{beside}"
        )
    best, second = ranked[0], ranked[1]
    assert best.best_value is not None
    assert second.best_value is not None
    most, beyond = ("highest", "below") if objective.higher_is_better else ("lowest", "above")
    if not measured_alike(trains):
        return Verdict(
            f"#{best.pk} has the {most} {what}, {best.best_value:.3f}, but not on the same rows.",
            f"These trains were measured on different data, so their numbers say little about each other.{beside}",
        )
    final = best.last_evaluation.get(objective.evaluation)
    worse = final is not None and sign * (final - best.best_value) > 0.01 * abs(best.best_value)
    where = f"{best.best_value:.3f} at step {best.best_step or 0:,}"
    headline = f"#{best.pk} reaches the {most} {what}, {where}{', then gets worse' if worse else ''}."
    gap = abs(second.best_value - best.best_value)
    return Verdict(headline, f"#{second.pk} is next, {gap:.3f} {beyond} it{_sooner(best, second)}.{beside}", best)


def _sooner(best: TrainRun, second: TrainRun) -> str:
    seconds = [outcomes_of(run)["duration_seconds"] for run in (best, second)]
    if None in seconds or abs(seconds[0] - seconds[1]) < 1:
        return ""
    return f", in {display.duration(abs(seconds[0] - seconds[1]))} {'less' if seconds[1] < seconds[0] else 'more'}"
