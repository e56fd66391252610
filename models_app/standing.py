"""What stands on a model: trains that started from it, models trained from it, and what other apps
make of it. None of it may lose its ground, so the model can only be archived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import models

from core.ownership import Owned
from core.text import counted
from models_app.models import BaseModel

# How many a sentence names of each kind.
NAMED = 3


def uses_of(model: BaseModel) -> list[Any]:
    """Rows of any table that refer to the model and protect it."""
    found: list[Any] = []
    for relation in BaseModel._meta.related_objects:
        if relation.on_delete is models.PROTECT:
            rows = relation.related_model._base_manager.filter(**{relation.field.name: model})
            found.extend(rows)

    return found


def in_use_text(model: BaseModel, users: Iterable[Any], reader: User) -> str:
    """Why a model stays, by the names of its `users`: rows of any table that refer to it. Those
    that `reader` may not see are counted only."""
    by_kind: dict[type[models.Model], list[Any]] = {}
    for user in users:
        by_kind.setdefault(type(user), []).append(user)

    parts = []
    unseen: Counter[str] = Counter()

    for kind, rows in by_kind.items():
        noun = "model" if kind is BaseModel else str(kind._meta.verbose_name)
        seen = _seen(kind, rows, reader)
        unseen[noun] += len(rows) - len(seen)
        if seen:
            parts.append(_named(noun, seen))

    parts += [f"{counted(number, noun)} of others" for noun, number in unseen.items() if number]
    return (
        f"{model.title} stays, because it is in use by {'; '.join(parts)}. Archive it instead: it "
        "is then no longer offered."
    )


def _seen(kind: type[models.Model], rows: list[Any], reader: User) -> list[Any]:
    """Of the rows of one kind those that the reader may see. What belongs to nobody in particular
    is known to whoever may change the model."""
    if not issubclass(kind, Owned):
        return rows

    visible = kind._default_manager.visible_to(reader)  # type: ignore[attr-defined]
    return list(visible.filter(pk__in=[row.pk for row in rows]).order_by("pk"))


def _named(noun: str, rows: list[Any]) -> str:
    names = ", ".join(str(row) for row in rows[:NAMED])
    more = len(rows) - NAMED
    rest = f" and {more:,} more" if more > 0 else ""
    plural = noun if len(rows) == 1 else f"{noun}s"
    return f"the {plural} {names}{rest}"
