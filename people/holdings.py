"""What belongs to a person, and what of it others use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import models

from core.ownership import Owned, owned_models
from training.models import TrainRun

# How many users of a dataset or model a sentence names.
NAMED = 3


@dataclass(frozen=True)
class Use:
    """A row of the person (`row`) that a row of somebody else depends on (`by`)."""

    row: Owned
    by: Owned

    def __str__(self) -> str:
        return f"{self.row} is used by {self.by} of {self.by.owner or 'nobody'}"


def holdings_count(people: Iterable[User]) -> dict[int, dict[str, int]]:
    """{person's id: {"datasets": 3, "base models": 0, …}}, by one query for every kind."""
    ids = [person.pk for person in people]
    counts: dict[int, dict[str, int]] = {pk: {} for pk in ids}

    for model in owned_models():
        rows = model._base_manager.filter(owner__in=ids).order_by().values_list("owner")
        found = dict(rows.annotate(count=models.Count("pk")))
        for pk in ids:
            counts[pk][str(model._meta.verbose_name_plural)] = found.get(pk, 0)

    return counts


def holdings_text(person: User) -> str:
    """3 datasets and 1 train run; "" for a person who has nothing."""
    parts = []
    for model in owned_models():
        count = model._base_manager.filter(owner=person).count()
        if count:
            word = model._meta.verbose_name if count == 1 else model._meta.verbose_name_plural
            parts.append(f"{count:,} {word}")

    *others, last = parts or [""]
    return f"{', '.join(others)} and {last}" if others else last


def uses_by_others(person: User) -> list[Use]:
    """Every row of `person` that must stay because rows of others refer to it."""
    return [*_references(person), *_reward_models_in_use(person)]


def uses_text(uses: list[Use]) -> str:
    """The first few uses as a sentence."""
    named = "; ".join(str(use) for use in uses[:NAMED])
    more = len(uses) - NAMED
    return f"{named}; and {more:,} more" if more > 0 else named


def rows_to_keep(person: User, uses: list[Use]) -> dict[type[Owned], set[int]]:
    """Ids of what others use, and of what those rows need in turn: an earlier version, a base
    model.
    """
    kept: dict[type[Owned], set[int]] = defaultdict(set)
    waiting = [use.row for use in uses]

    while waiting:
        row = waiting.pop()
        if row.owner_id != person.pk or row.pk in kept[type(row)]:
            continue

        kept[type(row)].add(row.pk)
        waiting.extend(_needed_by(row))

    return kept


def _references(person: User) -> Iterator[Use]:
    """By foreign keys that protect what they point at."""
    for model in owned_models():
        for relation in model._meta.related_objects:
            other = relation.related_model
            if relation.on_delete is not models.PROTECT or not issubclass(other, Owned):
                continue

            name = relation.field.name
            rows = other._base_manager.filter(**{f"{name}__owner": person}).exclude(owner=person)
            for row in rows.select_related(name, "owner").order_by("pk"):
                yield Use(getattr(row, name), row)


def _reward_models_in_use(person: User) -> Iterator[Use]:
    """Trains of others that wait or run name the files of a reward model by its id, among their
    parameters.
    """
    open_ones = (
        TrainRun.objects.exclude(status__in=TrainRun.ENDED)
        .exclude(owner=person)
        .select_related("owner")
    )

    for run in open_ones.order_by("pk"):
        for choice in run.parameters.get("rewards") or []:
            if choice.get("function") != "reward_model":
                continue

            model_id = choice.get("parameters", {}).get("model")
            scorer = TrainRun.objects.filter(pk=model_id, owner=person).first()
            if scorer is not None:
                yield Use(scorer, run)


def _needed_by(row: Owned) -> Iterator[Owned]:
    for field in row._meta.concrete_fields:
        target = field.related_model
        if not isinstance(target, type) or not issubclass(target, Owned):
            continue

        reference = field.remote_field
        if reference is None or reference.on_delete is not models.PROTECT:
            continue
        if (found := getattr(row, field.name)) is not None:
            yield found
