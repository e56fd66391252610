"""Which chain a train belongs to, on pages of trains and jobs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import template

from chains.models import Stage
from training.models import TrainRun
from training.train.orders import parts_by_train, trains_of

register = template.Library()


@register.simple_tag(takes_context=True)
def stages_of(context: dict[str, Any], rows: Iterable[Any]) -> dict[int, Stage]:
    """{train's id: its stage, with the `count` of all} of rows with a train (`row.train` or
    `row.run`, perhaps None): one query a page. Chains that the reader may not see are left out."""
    return parts_by_train(Stage, "chain", context["user"], trains_of(rows))


@register.simple_tag(takes_context=True)
def stage_of_train(context: dict[str, Any], run: TrainRun) -> Stage | None:
    """The stage that one train is."""
    return parts_by_train(Stage, "chain", context["user"], [run.pk]).get(run.pk)


@register.filter
def stage_of(stages: dict[int, Stage], train: TrainRun | None) -> Stage | None:
    return stages.get(train.pk) if train is not None else None
