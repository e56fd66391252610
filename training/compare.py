"""Trains side by side: which parameters differ, and how each came out."""

from __future__ import annotations

from typing import Any

from engine.rundir import MODEL, folder_size
from training.models import TrainRun

MOST_TRAINS = 8


def ids_parse(text: str) -> list[int]:
    """"3,5,8" as ids, each once, in order; what is no id is left out."""
    ids = [int(part) for part in text.split(",") if part.strip().isascii() and part.strip().isdigit() and len(part) < 19]
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
        "best_eval_loss": run.best_eval_loss,
        "final_eval_loss": run.last_evaluation.get("eval_loss"),
        "final_loss": metrics.get("loss"),
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
    return {
        "differences": {name: row for name, row in rows.items() if any(value != row[str(trains[0].pk)] for value in row.values())},
        "outcomes": {name: {pk: values[name] for pk, values in measured.items()} for name in outcomes_of(trains[0])},
    }
