"""What chains and sweeps have in common: several trains that somebody orders together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from django.contrib.auth.models import User
from django.db import models
from django.db.models import Count
from django.utils import timezone

from core.ownership import Owned, Reader
from jobs.models import IllegalTransition
from training.models import TrainRun


class TrainOrder(Owned):
    """An order of several trains. Whoever extends it names its `Status` with TRANSITIONS, and those
    in which it goes on, UNENDED."""

    TRANSITIONS: ClassVar[dict[Any, set[Any]]]
    UNENDED: ClassVar[tuple[Any, ...]]

    name: Any
    # Written by transition() alone.
    status: Any
    priority = models.SmallIntegerField(
        choices=TrainRun.Priority.choices, default=TrainRun.Priority.NORMAL
    )
    idempotency_key = models.CharField(  # noqa: DJ001 - unique where there is one
        max_length=200, null=True, blank=True, editable=False
    )
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta(Owned.Meta):
        abstract = True
        ordering: ClassVar = ["-pk"]

    def __str__(self) -> str:
        return str(self.name)

    @classmethod
    def of_key(cls, owner: User | None, key: str) -> Self | None:
        """The order that this owner made with that idempotency key, if there is one."""
        if not key:
            return None

        return cls._default_manager.filter(owner=owner, idempotency_key=key).first()

    def transition(self, to: Any, **values: Any) -> bool:
        """Change the status to `to` and write `values` with it, in one conditional write. Returns
        whether this caller did. Raises IllegalTransition for a change that there is not."""
        if to not in self.TRANSITIONS[self.status]:
            kind = self._meta.verbose_name
            raise IllegalTransition(f"A {kind} cannot go from {self.status} to {to}.")

        ended = None if to in self.UNENDED else timezone.now()
        values |= {"status": to, "ended_at": ended}
        orders: Any = type(self)._default_manager
        if orders.filter(pk=self.pk, status=self.status).update(**values) != 1:
            return False

        for name, value in values.items():
            setattr(self, name, value)

        return True

    def speaks_for(self, run: TrainRun) -> bool:
        """Whether a notice of `run` is one of the order: a train that was resumed after the order had
        ended speaks for itself."""
        if self.ended_at is None or run.finished_at is None:
            return False

        return run.finished_at <= self.ended_at


def trains_of(rows: Iterable[Any]) -> list[int]:
    """Ids of the trains of rows that have one (`row.train` or `row.run`, perhaps None)."""
    trains = (getattr(row, "train", None) or getattr(row, "run", None) for row in rows)
    return [train.pk for train in trains if train is not None]


def parts_by_train(
    part: type[models.Model], order: str, reader: Reader, trains: Sequence[int]
) -> dict[int, Any]:
    """{train's id: its part of an order, with the `count` of all its parts}, in one query; orders that
    the reader may not see are left out. order: the part's field of that name."""
    if not trains:
        return {}

    relation: Any = part._meta.get_field(order)
    orders = relation.related_model.objects.visible_to(reader).order_by()
    known = part._default_manager.filter(run__in=trains, **{f"{order}__in": orders})
    count = Count(f"{order}__{relation.remote_field.related_name}")
    return {found.run_id: found for found in known.select_related(order).annotate(count=count)}
