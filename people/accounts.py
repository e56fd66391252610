"""Creating accounts, and changing them."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction

from core.errors import UserError
from people.models import PersonRemoval
from people.removing import account_close
from people.rights import may_manage


def person_create(*, by: User, username: str, password: str, **details: str) -> User:
    """An account without any rights. Raises PermissionDenied, or UserError by field."""
    if not by.has_perm("auth.add_user"):
        raise PermissionDenied

    person = User(username=username, **details)
    try:
        validate_password(password, person)
    except ValidationError as error:
        raise UserError({"password": error.messages}) from error

    person.set_password(password)
    try:
        with transaction.atomic():
            person.save()
    except IntegrityError as error:
        raise UserError({"username": ["There is an account of that name already."]}) from error

    return person


def person_update(*, person: User, by: User, is_active: bool | None = None, **details: str) -> User:
    """Change the names and the address of an account, or close or reopen it.

    A closed account keeps everything that belongs to it; its sessions and tokens end. Raises
    PermissionDenied or UserError.
    """
    if not (by.has_perm("auth.change_user") and may_manage(by, person)):
        raise PermissionDenied

    if is_active is False and person.pk == by.pk:
        raise UserError({"is_active": ["You cannot close your own account."]})
    if is_active and PersonRemoval.objects.filter(person=person).exists():
        raise UserError({"is_active": ["This account is being removed."]}, code="wrong_state")

    values: dict[str, Any] = dict(details)
    if is_active is not None:
        values["is_active"] = is_active

    with transaction.atomic():
        User.objects.filter(pk=person.pk).update(**values)
        if is_active is False:
            account_close(person)

    person.refresh_from_db()
    return person
