"""Name and version of trained models: a person has each pair once."""

from __future__ import annotations

import re

from django.contrib.auth.models import User
from django.db.models import QuerySet

from core.errors import UserError
from models_app.models import VERSION_LIMIT, BaseModel

# Of numbers that are counted on. Longer ones are dates or worse, and would run out of digits.
NUMBER_DIGITS = 9
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


def version_clean(text: str) -> str:
    """A version that somebody typed, "" for none. Raises UserError {"version": …}."""
    version = text.strip()
    if re.match(r"[vV]\d", version):
        # Pages put it there.
        version = version[1:]

    if version and (len(version) > VERSION_LIMIT or not _VERSION.fullmatch(version)):
        raise UserError(
            {
                "version": [
                    "Write letters, digits, dots, dashes and underscores, such as 2 or 2.1-beta: "
                    f"{VERSION_LIMIT} at most."
                ]
            }
        )

    return version


def version_set(model: BaseModel) -> None:
    """Give a new model the next number under its name, where no version was asked for. Call it in
    the transaction that saves the model. Raises UserError {"version": …} where the one that was
    asked for is there already."""
    # Two at once do not get one number.
    if model.owner_id is not None:
        User.objects.select_for_update().get(pk=model.owner_id)

    if model.version:
        title_check(model, model.name, model.version)
        return

    taken = _of_name(model, model.name).values_list("version", flat=True)
    numbers = [
        int(version) for version in taken if version.isdecimal() and len(version) <= NUMBER_DIGITS
    ]
    model.version = str(max(numbers, default=0) + 1)


def title_check(model: BaseModel, name: str, version: str) -> None:
    """Raises UserError where the owner of `model` has another trained model of that name and
    version."""
    twin = _of_name(model, name).filter(version__iexact=version).first()
    if twin is None:
        return

    state = ", archived" if twin.archived_at else ""
    field = "name" if model.pk else "version"
    raise UserError({field: [f"You have {twin.title} already{state}. Choose another {field}."]})


def _of_name(model: BaseModel, name: str) -> QuerySet[BaseModel]:
    """Other trained models of that name, archived ones too, of the owner of `model`."""
    rows = BaseModel.objects.filter(owner=model.owner_id, source=BaseModel.Source.TRAIN)
    return rows.filter(name__iexact=name).exclude(pk=model.pk)
