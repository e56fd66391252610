"""Sweeps among the hits of the search over everything."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db.models import Count
from django.urls import reverse

from core.text import counted
from sweeps.models import Sweep
from training.pages.search import Hit, HitGroup, hit_group, words_match


def sweeps_found(user: User, words: str) -> HitGroup:
    rows = Sweep.objects.visible_to(user).filter(words_match(words, "name"))
    rows = rows.annotate(trial_count=Count("trials")).only("name", "status")

    def hit(sweep: Sweep) -> Hit:
        note = f"{counted(sweep.trial_count, 'train')} · {sweep.get_status_display()}"  # type: ignore[attr-defined]
        return Hit(sweep.name, note, sweep.get_absolute_url(), "adjustments-horizontal")

    return hit_group("sweeps", "Sweeps", rows, words, hit, reverse("sweeps:list"))
