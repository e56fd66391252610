"""Chains among the hits of the search over everything."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db.models import Count
from django.urls import reverse

from chains.models import Chain
from core.text import counted
from training.pages.search import Hit, HitGroup, hit_group, words_match


def chains_found(user: User, words: str) -> HitGroup:
    rows = Chain.objects.visible_to(user).filter(words_match(words, "name"))
    rows = rows.annotate(stage_count=Count("stages")).only("name", "status")

    def hit(chain: Chain) -> Hit:
        note = f"{counted(chain.stage_count, 'stage')} · {chain.get_status_display()}"  # type: ignore[attr-defined]
        return Hit(chain.name, note, chain.get_absolute_url(), "link")

    return hit_group("chains", "Chains", rows, words, hit, reverse("chains:list"))
