"""What belongs to a person, and which of it others use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import models

from chains.models import Chain, Stage
from chains.needs import first_to_wait
from core.ownership import Owned, owned_models
from sweeps.models import Sweep
from training.models import TrainRun
from training.train.reward_resources import scorers_named

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
    """{person's id: {"datasets": 3, "base models": 0, …}}, with one query for each kind."""
    ids = [person.pk for person in people]
    counts: dict[int, dict[str, int]] = {pk: {} for pk in ids}

    for model in owned_models():
        kind = str(model._meta.verbose_name_plural)
        rows = model._base_manager.filter(owner__in=ids).order_by()
        by_owner = rows.values_list("owner").annotate(count=models.Count("pk"))
        count_of = dict(by_owner)

        for pk in ids:
            counts[pk][kind] = count_of.get(pk, 0)

    return counts


def holdings_text(person: User) -> str:
    """3 datasets and 1 train run; "" for a person who has nothing."""
    parts = []

    for model in owned_models():
        names = model._meta
        count = model._base_manager.filter(owner=person).count()

        if count == 1:
            parts.append(f"1 {names.verbose_name}")
        elif count:
            parts.append(f"{count:,} {names.verbose_name_plural}")

    if len(parts) < 2:
        return "".join(parts)

    *others, last = parts
    return f"{', '.join(others)} and {last}"


def uses_by_others(person: User) -> list[Use]:
    """Every row of `person` that must stay because rows of others refer to it."""
    return [
        *_references(person),
        *_reward_models_in_use(person),
        *_waited_for(person),
        *_uses_by_chains(person),
        *_uses_by_sweeps(person),
    ]


def uses_text(uses: list[Use]) -> str:
    """The first few uses as a sentence."""
    texts = [str(use) for use in uses[:NAMED]]
    more = len(uses) - NAMED

    if more > 0:
        texts.append(f"and {more:,} more")

    return "; ".join(texts)


def rows_to_keep(person: User, uses: list[Use]) -> dict[type[Owned], set[int]]:
    """Ids of what others use, and of what those rows need in turn, such as an earlier version or a
    base model."""
    kept: dict[type[Owned], set[int]] = defaultdict(set)
    unvisited = [use.row for use in uses]

    while unvisited:
        row = unvisited.pop()
        kept_ids = kept[type(row)]

        if row.owner_id == person.pk and row.pk not in kept_ids:
            kept_ids.add(row.pk)
            unvisited.extend(_needed_by(row))

    return kept


def _references(person: User) -> Iterator[Use]:
    """Uses by foreign keys that protect what they refer to."""
    for model in owned_models():
        for relation in model._meta.related_objects:
            other = relation.related_model
            if relation.on_delete is not models.PROTECT or not issubclass(other, Owned):
                continue

            name = relation.field.name
            rows = other._base_manager.filter(**{f"{name}__owner": person})
            rows_of_others = rows.exclude(owner=person).select_related(name, "owner")

            for row in rows_of_others.order_by("pk"):
                used = getattr(row, name)
                yield Use(used, row)


def _reward_models_in_use(person: User) -> Iterator[Use]:
    """Uses by trains of others that wait or run: they name a reward model by its id, among their
    parameters."""
    open_trains = TrainRun.objects.exclude(status__in=TrainRun.ENDED).exclude(owner=person)

    for run in open_trains.select_related("owner").order_by("pk"):
        for choice in run.parameters.get("rewards") or []:
            if choice.get("function") != "reward_model":
                continue

            parameters = choice.get("parameters", {})
            scorers = TrainRun.objects.filter(pk=parameters.get("model"), owner=person)
            scorer = scorers.first()

            if scorer is not None:
                yield Use(scorer, run)


def _waited_for(person: User) -> Iterator[Use]:
    """Uses by what others have waiting until a train of the person has succeeded."""
    harmless = models.Q(owner=person) | models.Q(starts_after__status=TrainRun.Status.FINISHED)

    trains = TrainRun.objects.filter(status=TrainRun.Status.QUEUED, starts_after__owner=person)
    for run in trains.exclude(harmless).select_related("owner").order_by("pk"):
        assert run.predecessor is not None
        yield Use(run.predecessor, run)

    sweeps = Sweep.objects.active().filter(starts_after__owner=person)
    for sweep in sweeps.exclude(harmless).select_related("starts_after", "owner").order_by("pk"):
        assert sweep.starts_after is not None
        yield Use(sweep.starts_after, sweep)

    stages = first_to_wait().filter(chain__starts_after__owner=person)
    others = stages.exclude(chain__owner=person).order_by("pk")
    for stage in others.select_related("chain__starts_after", "chain__owner"):
        assert stage.chain.starts_after is not None
        yield Use(stage.chain.starts_after, stage.chain)


def _uses_by_chains(person: User) -> Iterator[Use]:
    """Uses by chains of others that run, or can go on."""
    open_stages = Stage.objects.filter(chain__status__in=Chain.OPEN).exclude(chain__owner=person)

    for field in Stage._meta.concrete_fields:
        target = field.related_model
        if not isinstance(target, type) or not issubclass(target, Owned) or target is Chain:
            continue

        stages = open_stages.filter(**{f"{field.name}__owner": person})
        for stage in stages.select_related(field.name, "chain__owner").order_by("pk"):
            yield Use(getattr(stage, field.name), stage.chain)


def _uses_by_sweeps(person: User) -> Iterator[Use]:
    """Uses by sweeps of others that run, or can go on."""
    open_sweeps = Sweep.objects.filter(status__in=Sweep.OPEN).exclude(owner=person)

    for name in ("base_model", "dataset", "evaluation_dataset"):
        sweeps = open_sweeps.filter(**{f"{name}__owner": person})
        for sweep in sweeps.select_related(name, "owner").order_by("pk"):
            yield Use(getattr(sweep, name), sweep)

    for sweep in open_sweeps.select_related("owner").order_by("pk"):
        scorers = TrainRun.objects.filter(pk__in=scorers_named(sweep.parameters), owner=person)
        for scorer in scorers.order_by("pk"):
            yield Use(scorer, sweep)


def _needed_by(row: Owned) -> Iterator[Owned]:
    """The rows that this row refers to by protecting foreign keys."""
    for field in row._meta.concrete_fields:
        target = field.related_model
        reference = field.remote_field

        if not isinstance(target, type) or not issubclass(target, Owned):
            continue
        if reference is None or reference.on_delete is not models.PROTECT:
            continue

        needed = getattr(row, field.name)
        if needed is not None:
            yield needed
