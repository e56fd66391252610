"""Where a model is from and what was built on it: what its page shows of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from core.ownership import may_change
from engine.models.inspect import ModelProblem
from models_app.models import BaseModel
from models_app.passport import passport_stored
from models_app.services import trained_from
from models_app.tree import ancestors_of

# How many trains and models the page names.
NAMED = 5


@dataclass(frozen=True)
class Measure:
    """One measurement of the train: "First", "Last" or "Best"."""

    title: str
    step: int
    value: float


@dataclass(frozen=True)
class Origin:
    """origin: trained_from, without what the reader may not know. ancestors: the first one first.
    run: the train itself, None where it is gone or hidden. metric, measures: of its held-out rows,
    or else of its own. licences: (of what, licence)."""

    origin: dict[str, Any]
    ancestors: list[BaseModel]
    run: Any = None
    metric: str = ""
    measures: list[Measure] = field(default_factory=list)
    licences: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Built:
    """What stands on a model, as far as the reader may see it: the newest, and how many there
    are."""

    trains: list[Any]
    train_count: int
    models: list[BaseModel]
    model_count: int

    def __bool__(self) -> bool:
        return bool(self.train_count or self.model_count)


def origin_of(model: BaseModel, reader: Any) -> Origin | None:
    """None for a model that was added from elsewhere."""
    if not model.is_trained:
        return None

    origin = trained_from(model, reader)
    ancestors = ancestors_of(model, reader)
    metric, measures = _measures(model)
    return Origin(
        origin=origin,
        ancestors=ancestors,
        run=_run(model, reader),
        metric=metric,
        measures=measures,
        licences=_licences(model, ancestors, origin),
    )


def built_on(model: BaseModel, reader: Any) -> Built:
    trains = model.trains.visible_to(reader).order_by("-pk")
    children = model.children.visible_to(reader).order_by("-pk")
    return Built(
        trains=list(trains.select_related("method")[:NAMED]),
        train_count=trains.count(),
        models=list(children[:NAMED]),
        model_count=children.count(),
    )


def _run(model: BaseModel, reader: Any) -> Any:
    """The train that made it, for those who may know it."""
    if not may_change(model, reader):
        return None

    # By the relation: trains live on a floor above this one.
    trains: Any = BaseModel._meta.get_field("trains").related_model
    visible = trains.objects.visible_to(reader).select_related("dataset", "evaluation_dataset")
    return visible.filter(pk=model.trained_from.get("train")).first()


def _measures(model: BaseModel) -> tuple[str, list[Measure]]:
    """Of the rows that were held out, where there are any."""
    if model.status != BaseModel.Status.READY:
        return "", []

    try:
        stored = passport_stored(model).get("measures", {})
    except (OSError, ValueError, ModelProblem):
        return "", []

    for split in ("evaluation", "train"):
        measured = stored.get(split, {})
        points = [
            Measure(name.capitalize(), measured[name]["step"], measured[name]["value"])
            for name in ("first", "best", "last")
            if name in measured
        ]
        if points:
            return measured["metric"], points

    return "", []


def _licences(
    model: BaseModel, ancestors: list[BaseModel], origin: dict[str, Any]
) -> list[tuple[str, str]]:
    """Of each that it was made of."""
    found = [(ancestor.title, ancestor.licence) for ancestor in ancestors]
    datasets = origin.get("datasets", {}).values()
    found += [(dataset["title"], dataset["licence"]) for dataset in islice(datasets, NAMED)]
    return [("This model", model.licence), *found]
