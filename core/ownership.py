"""Who sees what: one's own and what belongs to the house (no owner); staff see everything. A stranger's is a 404."""

from __future__ import annotations

from typing import Self, TypeVar

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models

M = TypeVar("M", bound=models.Model)


class OwnedQuerySet(models.QuerySet[M]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        if getattr(user, "is_staff", False):
            return self
        return self.filter(models.Q(owner=user.pk) | models.Q(owner=None))
