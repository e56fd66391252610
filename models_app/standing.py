"""What stands on a model: trains that started from it, models trained from it, and what other apps
make of it. None of it may lose its ground, so the model can only be archived."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import User
from django.db import models, router
from django.db.models import ProtectedError, QuerySet
from django.db.models.deletion import Collector

from core.ownership import Owned
from core.text import counted
from models_app.models import BaseModel

# How many a sentence names of each kind.
NAMED = 3


def in_use_text(model: BaseModel, reader: User) -> str:
    """Why a model stays, by the names of what stands on it; "" where nothing does. What `reader`
    may not see is counted only, and of chains and sweeps that run it is said that there is one."""
    if is_needed_now(model):
        return (
            f"A running chain or sweep needs {model.title}. Cancel the chain or stop the sweep "
            "first."
        )

    parts = []
    hidden = []

    for kind, rows in _uses(model):
        noun = "model" if kind is BaseModel else str(kind._meta.verbose_name)
        seen = _visible(kind, rows, reader)
        seen_count = seen.count()
        hidden_count = rows.count() - seen_count

        if seen_count:
            names = [str(row) for row in seen.order_by("pk")[:NAMED]]
            parts.append(_named(noun, names, seen_count))
        if hidden_count:
            hidden.append(f"{counted(hidden_count, noun)} of others")

    if not parts and not hidden:
        return ""

    return (
        f"{model.title} stays, because it is in use by {'; '.join(parts + hidden)}. Archive it "
        "instead: it is then no longer offered."
    )


def is_needed_now(model: BaseModel) -> bool:
    """Whether rows of another app, which protect the model for a time only, need it now: it can
    neither go nor be archived. Asks as a deletion would, and deletes nothing."""
    try:
        Collector(using=router.db_for_write(BaseModel), origin=model).collect([model])
    except ProtectedError as error:
        lasting = tuple(kind for kind, _ in _uses(model))
        return any(not isinstance(row, lasting) for row in error.protected_objects)

    return False


def _uses(model: BaseModel) -> Iterator[tuple[type[models.Model], QuerySet[Any]]]:
    """Rows of any table that refer to the model and protect it for good."""
    for relation in BaseModel._meta.related_objects:
        if relation.on_delete is models.PROTECT:
            kind = relation.related_model
            yield kind, kind._base_manager.filter(**{relation.field.name: model})


def _visible(kind: type[models.Model], rows: QuerySet[Any], reader: User) -> QuerySet[Any]:
    """What belongs to nobody in particular is known to whoever may change the model."""
    if not issubclass(kind, Owned):
        return rows

    visible: QuerySet[Any] = kind._default_manager.visible_to(reader)  # type: ignore[attr-defined]
    return visible.filter(pk__in=rows.values("pk"))


def _named(noun: str, names: list[str], count: int) -> str:
    rest = f" and {count - len(names):,} more" if count > len(names) else ""
    plural = noun if count == 1 else f"{noun}s"
    return f"the {plural} {', '.join(names)}{rest}"
