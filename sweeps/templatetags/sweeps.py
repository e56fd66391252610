"""Several values in the form of a new train, and which sweep a train belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import template

from methods.models import TrainingMethod
from methods.schema import Field
from sweeps.form import AxisDraft, SweepDraft, panel_of
from sweeps.models import Trial
from sweeps.space import NUMBERS, sweep_obstacle
from training.models import TrainRun
from training.train.orders import parts_by_train, trains_of

register = template.Library()


@register.filter
def may_sweep(field: Field) -> bool:
    """Whether trains of a sweep can differ in it."""
    return not sweep_obstacle(field)


@register.filter
def is_number(field: Field) -> bool:
    return field.kind in NUMBERS


@register.simple_tag
def axis_of(sweep: dict[str, Any] | None, field: Field) -> AxisDraft | None:
    """What the form holds of one setting; None where it has one value."""
    if not sweep:
        return None

    draft: SweepDraft = sweep["draft"]
    return draft.axes.get(field.name)


@register.simple_tag
def sweep_panel(method: TrainingMethod, sweep: dict[str, Any] | None) -> dict[str, Any]:
    """What the panel of a sweep offers, also while the form has none."""
    return sweep or panel_of(method, SweepDraft())


@register.simple_tag(takes_context=True)
def trials_of(context: dict[str, Any], rows: Iterable[Any]) -> dict[int, Trial]:
    """{train's id: its trial, with the `count` of all} of rows with a train (`row.train` or
    `row.run`, perhaps None): one query a page. Sweeps that the reader may not see are left out."""
    return parts_by_train(Trial, "sweep", context["user"], trains_of(rows))


@register.simple_tag(takes_context=True)
def trial_of_train(context: dict[str, Any], run: TrainRun) -> Trial | None:
    return parts_by_train(Trial, "sweep", context["user"], [run.pk]).get(run.pk)


@register.filter
def trial_of(trials: dict[int, Trial], train: TrainRun | None) -> Trial | None:
    return trials.get(train.pk) if train is not None else None
