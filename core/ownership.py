"""Who may see and change what.

People see their own rows and those that are shared with everyone. Seeing, changing, deleting and
sharing the rows of others takes the model's permission of that name (`datasets_app.view_dataset`,
`training.change_trainrun`, …), given by hand or through the group Operators. A row that somebody
may not see does not exist for them: it is a 404.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_permission_codename
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.db import models, transaction

from core.errors import UserError

M = TypeVar("M", bound=models.Model)
Reader = AbstractBaseUser | AnonymousUser


class OwnedQuerySet(models.QuerySet[M]):
    def visible_to(self, user: Reader) -> Self:
        if may_see_all(self.model, user):
            return self

        visible = models.Q(shared=True)
        # An anonymous reader has no id, and `owner=None` would ask for rows without an owner.
        if user.pk is not None:
            visible |= models.Q(owner=user.pk)

        return self.filter(visible)


class Owned(models.Model):
    """Something that belongs to a person. A model of this kind writes `class Meta(Owned.Meta)`.

    A person who owns something cannot be deleted: people.removing first hands it over or deletes
    it. Without an owner and not shared, a row is visible to operators only.
    """

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    shared = models.BooleanField(
        default=False, help_text="Everyone on this platform can see it and use it."
    )

    class Meta:
        abstract = True
        default_permissions = ("add", "change", "delete", "view", "share")


def owned_models() -> list[type[Owned]]:
    """Every model whose rows are what people have.

    Not one that others extend: those of its rows that are nothing more (records of background work,
    jobs.models.Job) come and go with what they are about."""
    owned = [model for model in apps.get_models() if issubclass(model, Owned)]
    extended = {parent for model in owned for parent in model._meta.parents}
    return [model for model in owned if model not in extended]


def has_right(user: Any, right: str, model: type[models.Model]) -> bool:
    """Whether `user` has the model's permission `right`: view, change, delete or share."""
    codename = get_permission_codename(right, model._meta)
    permission = f"{model._meta.app_label}.{codename}"

    return bool(user.has_perm(permission))


def may_see_all(model: type[models.Model], user: Any) -> bool:
    if has_right(user, "view", model):
        return True

    return has_right(user, "change", model)


def may_see(row: Any, user: Any) -> bool:
    """Of one row what OwnedQuerySet.visible_to says of many."""
    return row.shared or is_owner(row, user) or may_see_all(type(row), user)


def is_owner(row: Any, user: Any) -> bool:
    # An anonymous user has no id either, and does not own rows without an owner.
    if row.owner_id is None:
        return False

    return bool(row.owner_id == user.pk)


def may_change(row: Any, user: Any) -> bool:
    return is_owner(row, user) or has_right(user, "change", type(row))


def may_delete(row: Any, user: Any) -> bool:
    return is_owner(row, user) or has_right(user, "delete", type(row))


def may_share(row: Any, user: Any) -> bool:
    """Sharing with everyone needs a permission, for one's own rows too."""
    return has_right(user, "share", type(row)) and may_change(row, user)


def may_stop_sharing(row: Any, user: Any) -> bool:
    return is_owner(row, user) or may_share(row, user)


def owner_check(row: Any, by: User) -> None:
    """Raises PermissionDenied where `by` may not change `row`."""
    if not may_change(row, by):
        raise PermissionDenied


def deletion_check(row: Any, by: User) -> None:
    """Raises PermissionDenied where `by` may not delete `row`."""
    if not may_delete(row, by):
        raise PermissionDenied


def sharing_set(row: Any, *, by: User, shared: bool) -> None:
    """Share `row` with everyone, or stop sharing it; trains that use it already keep it.

    Raises PermissionDenied.
    """
    allowed = may_share(row, by) if shared else may_stop_sharing(row, by)
    if not allowed:
        raise PermissionDenied

    _write(row, shared=shared)


def owner_set(row: Any, *, by: User, owner: User) -> None:
    """Hand `row` over to another person. For operators. Raises PermissionDenied or UserError."""
    if not has_right(by, "change", type(row)):
        raise PermissionDenied

    if not owner.is_active:
        message = f"{owner.get_username()} cannot sign in. Choose somebody else."
        raise UserError({"owner": [message]})

    earlier = row.owner
    with transaction.atomic():
        _write(row, owner=owner, **released_on_hand_over(type(row)))
        for follow in _followers:
            follow(row, earlier, owner)


# What else changes hands with a row.
_followers: list[Callable[[Any, User | None, User], None]] = []


def follow_owner(follow: Callable[[Any, User | None, User], None]) -> None:
    """Have `follow(row, earlier owner, owner)` called when a row was handed over. For an app to call
    once, when it is ready."""
    _followers.append(follow)


def released_on_hand_over(model: type[models.Model]) -> dict[str, Any]:
    """Values to set on a row that gets a new owner: keys that only mean something among one
    person's requests are cleared."""
    names = {field.name for field in model._meta.fields}

    if "idempotency_key" in names:
        return {"idempotency_key": None}

    return {}


def _write(row: Any, **values: Any) -> None:
    # Not save(): workers write other fields of these rows at the same time.
    type(row)._base_manager.filter(pk=row.pk).update(**values)
    row.refresh_from_db(fields=list(values))
