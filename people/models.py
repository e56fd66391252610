"""Accounts that are being removed."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class PersonRemoval(models.Model):
    """The removal of an account that cannot be finished at once: trains have to stop before their
    files can be deleted.

    The account is closed when this row is created, and deleted, with this row, when the removal is
    finished.
    """

    person = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="removal")
    hand_over_to = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="Who gets everything, or, with delete_data, what others use.",
    )
    delete_data = models.BooleanField(default=False)
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    asked_at = models.DateTimeField(auto_now_add=True)
    obstacle = models.TextField(
        blank=True, help_text="Why it could not be finished when it was last tried."
    )

    def __str__(self) -> str:
        return f"Removal of {self.person}"
