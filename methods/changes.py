"""What operators do to a method. The admin, the API and commands call these."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone

from core.errors import UserError
from core.text import clean_label, clean_text
from engine.schema.registry import CUSTOM
from methods.custom import program_check, schema_check, script_store
from methods.models import TrainingMethod
from methods.overrides import overrides_check

# A change of these changes what a train gets, so that the method's version goes up; texts do not.
EFFECTIVE = ("recipe", "overrides", "program", "parameters")
LABELS = {"name": 80, "tagline": 80, "needs": 200, "cost": 200}
TEXTS = ("description", "example")


def method_save(method: TrainingMethod, *, by: Any = None, **values: Any) -> TrainingMethod:
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

    recipe = values.get("recipe", method.recipe)
    if recipe == CUSTOM:
        schema_check(values.get("parameters", method.parameters))
    else:
        overrides_check(recipe, values.get("overrides", method.overrides))

    changed = [field for field, value in values.items() if getattr(method, field) != value]
    if method.pk is not None and any(field in EFFECTIVE for field in changed):
        values["version"] = method.version + 1

    for field, value in values.items():
        setattr(method, field, value)

    with transaction.atomic():
        method.save()
        method.version_keep(by)

    return method


def custom_save(
    method: TrainingMethod,
    *,
    by: Any,
    interpreter: str,
    formats: list[str],
    script: tuple[str, bytes] | None = None,
    **values: Any,
) -> TrainingMethod:
    """Register or change a custom method. `script`: (name, content) of a new one; without it the
    old one stays.

    Only for superusers: the program runs as the platform's user. Raises UserError by field.
    """
    if not getattr(by, "is_superuser", False):
        raise UserError("Only a superuser may register a program.", code="forbidden", status=403)

    program_check(interpreter, formats)
    schema_check(values.get("parameters", method.parameters))
    program = dict(method.program)

    if script is not None:
        # A folder for each version: trains that wait keep the file that they were started with.
        version = method.version + 1 if method.pk is not None else 1
        program["script"], program["sha256"] = script_store(
            values.get("slug", method.slug), version, *script
        )

    if "script" not in program:
        raise UserError({"script": ["Upload the script."]})

    program |= {"interpreter": interpreter, "formats": list(formats)}
    return method_save(method, by=by, recipe=CUSTOM, overrides={}, program=program, **values)


def method_retire(method: TrainingMethod) -> None:
    """Offer it no longer. Trains that used it stay, and can be copied with another method."""
    TrainingMethod.objects.filter(pk=method.pk, retired_at=None).update(retired_at=timezone.now())


def method_restore(method: TrainingMethod) -> None:
    TrainingMethod.objects.filter(pk=method.pk).update(retired_at=None)


def method_delete(method: TrainingMethod) -> None:
    """Remove a method that was never used. Raises UserError where trains name it."""
    count = method.trains.count()
    if count:
        raise UserError(
            f"{count:,} train{'s' if count > 1 else ''} used {method.name}, so it stays. Retire it "
            "instead.",
            code="in_use",
            status=409,
        )

    try:
        method.delete()
    except ProtectedError as error:
        raise UserError(
            f"A running chain or sweep will use {method.name}, so it stays. Retire it instead.",
            code="in_use",
            status=409,
        ) from error
