"""Which chain a train belongs to, on pages of trains and jobs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import template
from django.db.models import Count

from chains.models import Chain, Stage
from training.models import TrainRun

register = template.Library()


@register.simple_tag(takes_context=True)
def stages_of(context: dict[str, Any], rows: Iterable[Any]) -> dict[int, Stage]:
    """{train's id: its stage, with the `count` of all} of rows with a train (`row.train` or
    `row.run`, perhaps None): one query a page. Chains that the reader may not see are left out."""
    trains = [getattr(row, "train", None) or getattr(row, "run", None) for row in rows]
    return _stages(context, [train.pk for train in trains if train is not None])


@register.simple_tag(takes_context=True)
def stage_of_train(context: dict[str, Any], run: TrainRun) -> Stage | None:
    """The stage that one train is."""
    return _stages(context, [run.pk]).get(run.pk)


def _stages(context: dict[str, Any], trains: list[int]) -> dict[int, Stage]:
    if not trains:
        return {}

    chains = Chain.objects.visible_to(context["user"]).order_by()
    stages = Stage.objects.filter(run__in=trains, chain__in=chains).select_related("chain")
    counted = stages.annotate(count=Count("chain__stages"))
    return {stage.run_id: stage for stage in counted if stage.run_id is not None}


@register.filter
def stage_of(stages: dict[int, Stage], train: TrainRun | None) -> Stage | None:
    return stages.get(train.pk) if train is not None else None
