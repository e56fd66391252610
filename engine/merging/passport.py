"""Where a trained model is from, for programs: enough to check it and to make it once more."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from engine.contract.rundir import DataFile, Spec, all_events, file_sha256
from engine.models.inspect import licence_read
from engine.schema.registry import CUSTOM, LOSS, RECIPES, Objective

PASSPORT_VERSION = 2
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def passport_make(
    run: Path, spec: Spec, weights: Path, step: int, precision: str, remark: str
) -> dict[str, Any]:
    """What the run directory and its spec say of a model.

    weights: the folder of the trained weights. step: of their checkpoint, 0 for the train's result.
    precision: in which the model is stored. remark: on the merge, for people. The platform adds
    what it alone knows: names, licences of data, and the proof."""
    source = spec.base_model_source
    base = Path(spec.base_model_path)
    trained = sorted(weights.glob("*.safetensors"))
    command = f"python -m engine.merging RUN OUT --precision {precision}"

    if step:
        command += f" --checkpoint {step}"

    return {
        "version": PASSPORT_VERSION,
        "train": {
            "id": spec.run_id,
            "name": spec.name,
            "method": spec.method,
            "recipe": spec.recipe,
        },
        "checkpoint_step": step or None,
        "base_model": {
            "name": spec.base_model_name,
            "sha256": spec.base_model_sha256,
            "hub_id": source.hub_id if source else None,
            "revision": source.revision if source else None,
            "licence": licence_read(base) or None if base.is_dir() else None,
        },
        "carried_on": _carried_on(spec),
        "data": _data(spec.dataset),
        "evaluation_data": _data(spec.evaluation_dataset) if spec.evaluation_dataset else None,
        "code": _code(spec),
        "trained_weights_sha256": {path.name: file_sha256(path) for path in trained},
        "parameters": spec.parameters,
        "system_prompt": spec.system_prompt,
        "precision": precision,
        "remark": remark,
        **_measured(run, spec.recipe, step),
        "command": command,
    }


def _carried_on(spec: Spec) -> dict[str, Any] | None:
    """The trained model whose adapter the train began with; None for one with a new adapter."""
    start = spec.start_adapter
    if start is None:
        return None

    weights = sorted(Path(start.path).glob("*.safetensors"))
    return {
        "model": start.model_name,
        "weights_sha256": {path.name: file_sha256(path) for path in weights},
    }


def _data(file: DataFile) -> dict[str, Any]:
    return {"sha256": file.sha256, "format": file.format, "file_type": file.file_type}


def _code(spec: Spec) -> dict[str, Any]:
    """The program's version, and hashes of what was brought along: a custom method's program,
    reward functions, reward models by name."""
    return {
        "deepextension": _release(),
        "program_sha256": spec.program.sha256 if spec.program else None,
        "resources": {
            name: {"name": resource.name, "sha256": resource.sha256 or None}
            for name, resource in spec.resources.items()
        },
    }


def _release() -> str | None:
    """The platform's version, None for a copy of the engine alone."""
    if not PROJECT.is_file():
        return None

    release: str = tomllib.loads(PROJECT.read_text())["project"]["version"]
    return release


def _measured(run: Path, recipe: str, step: int) -> dict[str, Any]:
    """{"machine", "measures"}: on what it was trained, and how it went until that step (0: until
    the end)."""
    objective = LOSS if recipe == CUSTOM else RECIPES[recipe].objective
    machine: dict[str, Any] = {}
    points: dict[str, dict[int, float]] = {"train": {}, "eval": {}}

    for event in all_events(run):
        if event["type"] == "started":
            names = ("device", "versions", "precision")
            machine = {name: event[name] for name in names if name in event}
            _forget(points, event.get("resumed_from"))
        elif event["type"] == "metrics" and (not step or event["step"] <= step):
            name = objective.train if event["split"] == "train" else objective.evaluation
            value = event["values"].get(name)
            if value is not None:
                points[event["split"]][event["step"]] = value

    measures = {
        "train": {"metric": objective.train} | _ends(points["train"]),
        "evaluation": {"metric": objective.evaluation} | _ends(points["eval"]),
    }
    if best := _best(points["eval"], objective):
        measures["evaluation"]["best"] = best

    return {"machine": machine, "measures": measures}


def _forget(points: dict[str, dict[int, float]], resumed_from: int | None) -> None:
    """A later attempt takes back what was measured after the step that it resumed from."""
    if resumed_from is None:
        return

    for values in points.values():
        for step in [step for step in values if step > resumed_from]:
            del values[step]


def _ends(values: dict[int, float]) -> dict[str, Any]:
    """The first and the last measurement."""
    if not values:
        return {}

    return {"first": _point(min(values), values), "last": _point(max(values), values)}


def _best(values: dict[int, float], objective: Objective) -> dict[str, float] | None:
    if not values:
        return None

    choose = max if objective.higher_is_better else min
    # The first of equals is the best one.
    return _point(choose(sorted(values), key=values.__getitem__), values)


def _point(step: int, values: dict[int, float]) -> dict[str, float]:
    return {"step": step, "value": values[step]}
