"""Who sees what: one's own and what belongs to the house (no owner); staff see everything. A stranger's is a 404."""

from __future__ import annotations

from typing import Any, Self, TypeVar

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.db import models

M = TypeVar("M", bound=models.Model)


class OwnedQuerySet(models.QuerySet[M]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        if getattr(user, "is_staff", False):
            return self
        return self.filter(models.Q(owner=user.pk) | models.Q(owner=None))


def may_change(row: Any, user: Any) -> bool:
    """One's own, and for staff every one; what belongs to the house is theirs alone to change."""
    return bool(user.is_staff or (row.owner_id is not None and row.owner_id == user.pk))


def owner_check(row: Any, by: User) -> None:
    """Raises PermissionDenied where `by` may not change `row`."""
    if not may_change(row, by):
        raise PermissionDenied
