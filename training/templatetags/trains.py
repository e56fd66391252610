"""The menu of every page, with how many trains run now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.templatetags.display import icon, query
from engine.rewards.registry import REWARDS
from training.models import TrainRun
from training.table import sort_link

register = template.Library()


@dataclass(frozen=True)
class Entry:
    title: str
    icon: str
    url: str
    here: bool
    heading: str = ""
    counts: bool = False
    running: int = 0


ENTRIES = (
    ("Model Training", "activity", "training:list", ""),
    ("Datasets", "database", "datasets:list", ""),
    ("Models", "cube", "models:list", ""),
    ("Methods", "puzzle", "methods:list", ""),
    ("API", "api", "api-docs", "For programs"),
)
OPERATORS = (("Administration", "shield-lock", "admin:index", "For operators"),)


@register.simple_tag(takes_context=True)
def menu_entries(context: dict[str, Any]) -> list[Entry]:
    """What this reader can open; the entry of the page that is open has `here`."""
    request, user = context["request"], context["user"]
    path = request.path
    entries = []
    for title, picture, name, heading in ENTRIES + (OPERATORS if user.is_staff else ()):
        try:
            url = reverse(name)
        except NoReverseMatch:
            continue
        counts = name == "training:list"
        running = TrainRun.objects.visible_to(user).active().count() if counts else 0
        entries.append(Entry(title, picture, url, path.startswith(url), heading, counts, running))
    return entries


@register.simple_tag(takes_context=True)
def column(context: dict[str, Any], title: str, name: str, classes: str = "") -> SafeString:
    """The head of a column that sorts the list."""
    wanted, state = sort_link(context["ordering"], name)
    address = query(context, ordering=wanted)
    return format_html(
        '<th{} scope="col" aria-sort="{}"><a class="sort" href="{}">{}{}</a></th>',
        format_html(' class="{}"', classes) if classes else "",
        state,
        address,
        title,
        icon("arrow-up"),
    )


@register.filter
def reward_name(name: str) -> str:
    """The title of a reward function by its name in the metrics, where the second of a kind is numbered."""
    plain, _, number = name.rpartition("_")
    if plain in REWARDS and number.isdigit():
        return f"{REWARDS[plain].title} {number}"
    return REWARDS[name].title if name in REWARDS else name.replace("_", " ").capitalize()
