"""What operators do to a method. The admin and commands call these."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from core.errors import UserError
from core.text import clean_label, clean_text
from methods.models import TrainingMethod
from methods.overrides import overrides_check

# A change of these changes what a train gets, so that the method's version goes up; texts do not.
EFFECTIVE = ("recipe", "overrides")
LABELS = {"name": 80, "tagline": 80, "needs": 200, "cost": 200}
TEXTS = ("description", "example")


def method_save(method: TrainingMethod, **values: Any) -> TrainingMethod:
    """Give a new or an old method these values. Raises UserError by field.

    Trains that ran keep the version that they ran with, and their parameters are their own.
    """
    for field, limit in LABELS.items():
        if field in values:
            values[field] = clean_label(values[field], limit=limit)
    for field in TEXTS:
        if field in values:
            values[field] = clean_text(values[field])
    if not values.get("name", method.name):
        raise UserError({"name": ["Give the method a name."]})
    overrides_check(values.get("recipe", method.recipe), values.get("overrides", method.overrides))
    changed = [field for field, value in values.items() if getattr(method, field) != value]
    if method.pk is not None and any(field in EFFECTIVE for field in changed):
        values["version"] = method.version + 1
    for field, value in values.items():
        setattr(method, field, value)
    method.save()
    return method


def method_retire(method: TrainingMethod) -> None:
    """Offer it no longer. Trains that used it stay, and can be copied with another method."""
    TrainingMethod.objects.filter(pk=method.pk, retired_at=None).update(retired_at=timezone.now())


def method_restore(method: TrainingMethod) -> None:
    TrainingMethod.objects.filter(pk=method.pk).update(retired_at=None)
