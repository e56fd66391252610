"""Which rows of its dataset a train held out."""

from __future__ import annotations

from engine.contract.arithmetic import holdout_draw, holdout_rows
from engine.contract.rundir import held_out_read
from engine.schema.registry import RECIPES
from training.models import TrainRun


def held_out_rows(run: TrainRun) -> list[int] | None:
    """Their numbers in the file of `run.dataset`, from 0; None where that is not known. A train that
    was measured by a dataset of its own held none out."""
    if run.evaluation_dataset_id is not None:
        return []

    written = held_out_read(run.directory)
    return written if written is not None else _drawn_again(run)


def _drawn_again(run: TrainRun) -> list[int] | None:
    """Of a train from before they were written down, as engine.data.split has drawn them. None where
    a row may have been left out before the draw: then the rows behind it have other numbers."""
    facts = run.facts
    dataset = run.dataset
    is_whole = facts.get("left_out_rows") == 0 and not dataset.problem_count
    if run.method.recipe not in RECIPES or not is_whole:
        return None

    rows = dataset.row_count
    most = run.parameters.get("max_samples")
    if isinstance(most, int):
        rows = min(rows, most)

    share = run.parameters.get("evaluation_split")
    seed = run.parameters.get("seed")
    if not isinstance(share, int | float) or not isinstance(seed, int):
        return None

    size = holdout_rows(rows, share)
    if facts.get("train_rows") != rows - size:
        return None

    return holdout_draw(rows, size, seed)
