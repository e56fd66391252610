"""What lists of trains are sorted by besides their columns: the last value, how long a train ran,
its status."""

from __future__ import annotations

from typing import Any

from django.db.models import Case, F, FloatField, Func, IntegerField, Value, When
from django.db.models.expressions import Combinable
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce, Now
from django.db.models.lookups import IsNull

from engine.schema.registry import LOSS, RECIPES
from training.models import TrainRun

Status = TrainRun.Status

# What somebody looks for first comes first.
STATUS_ORDER = (
    Status.RUNNING,
    Status.STOPPING,
    Status.QUEUED,
    Status.FAILED,
    Status.STOPPED,
    Status.FINISHED,
)


class SecondsBetween(Func):
    """Seconds from the second moment to the first; null where one is missing."""

    output_field = FloatField()
    arity = 2

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "((julianday(%(expressions)s)) * 86400.0)"
        return self.as_sql(
            compiler, connection, template=template, arg_joiner=") - julianday(", **context
        )

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "EXTRACT(EPOCH FROM (%(expressions)s))"
        return self.as_sql(compiler, connection, template=template, arg_joiner=" - ", **context)


def duration_seconds() -> Combinable:
    """What training.train.durations.run_seconds computes, in the database."""
    latest = SecondsBetween(Coalesce(F("finished_at"), Now()), F("started_at"))
    earlier: Any = Case(
        When(earlier_seconds__gt=0, then=F("earlier_seconds")),
        default=None,
        output_field=FloatField(),
    )

    return Case(
        When(started_at__isnull=False, then=F("earlier_seconds") + latest),
        default=earlier,
        output_field=FloatField(),
    )


def _recipes_by_metric() -> dict[str, list[str]]:
    """{metric of the last value: recipes that are judged by it}, loss left out."""
    recipes: dict[str, list[str]] = {}
    for recipe in RECIPES.values():
        metric = recipe.objective.train
        if metric != LOSS.train:
            recipes.setdefault(metric, []).append(recipe.name)

    return recipes


def last_value() -> tuple[Combinable, Combinable, Combinable]:
    """(whether there is none, what it measures, the value): losses are compared with losses and
    rewards with rewards, so that sorted rows show losses first, then each other measure, then
    trains that have not measured anything."""
    kinds: list[When] = []
    values: list[When] = []

    for number, (metric, recipes) in enumerate(_recipes_by_metric().items(), start=1):
        kinds.append(When(method__recipe__in=recipes, then=Value(number)))
        values.append(When(method__recipe__in=recipes, then=_last_metric(metric)))

    kind = Case(*kinds, default=Value(0), output_field=IntegerField())
    value = Case(*values, default=_last_metric(LOSS.train), output_field=FloatField())
    missing = Case(
        When(IsNull(value, True), then=Value(1)),
        default=Value(0),
        output_field=IntegerField(),
    )

    return missing, kind, value


def _last_metric(name: str) -> Combinable:
    return Cast(KT(f"last_metrics__{name}"), FloatField())


def status_rank() -> Combinable:
    ranks = [When(status=status, then=Value(rank)) for rank, status in enumerate(STATUS_ORDER)]
    return Case(*ranks, output_field=IntegerField())
