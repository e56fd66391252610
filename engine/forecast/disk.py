"""What a train writes: its checkpoints with the optimizer's state, and the finished model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.forecast.batches import Batch
from engine.forecast.memory import trained_weights
from engine.forecast.shape import ModelShape
from engine.forecast.workload import Target, Workload

# Tokenizer, config and card beside each checkpoint, and rows, events and answers of the train itself.
SMALL_FILES = 8 * 10**6


def disk_forecast(model: ModelShape, recipe: str, parameters: Mapping[str, Any]) -> int:
    """Bytes at most: just before what is no longer kept is deleted."""
    work = Workload(recipe, parameters, Batch(1, 1, 1), Target("cpu", half=False))
    trained = trained_weights(model, work)
    checkpoint = trained * (4 + work.optimizer_bytes) + SMALL_FILES
    finished = trained * 4 if work.trains_adapter else model.parameters * 4

    return round(checkpoints_at_once(parameters) * checkpoint + finished + SMALL_FILES)


def checkpoints_at_once(parameters: Mapping[str, Any]) -> int:
    """The last ones, the best besides, and the one that is being written; fewer where fewer are saved."""
    kept = int(parameters.get("save_total_limit") or 1) + 2
    strategy = parameters.get("save_strategy")
    every = int(parameters.get("save_every") or 1)

    if strategy == "end":
        return 1
    if strategy == "epochs":
        # A train of so many steps may have any number of epochs.
        epochs = parameters.get("epochs")
        return min(kept, max(1, math.ceil(float(epochs) / every))) if epochs else kept

    steps = parameters.get("max_steps")
    return min(kept, max(1, math.ceil(int(steps) / every))) if steps else kept
