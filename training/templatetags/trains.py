"""The menu of every page, with how many trains run now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.templatetags.display import icon, query
from training.models import TrainRun
from training.pages.list_table import sort_link
from training.train.starter_train import sample_is_offered

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
    ("Queue", "list-details", "training:queue", ""),
    ("Jobs", "list-check", "jobs:list", ""),
    ("Datasets", "database", "datasets:list", ""),
    ("Models", "cube", "models:list", ""),
    ("Compare", "columns-3", "training:compare", ""),
    ("Playground", "messages", "playground:new", ""),
    ("Methods", "puzzle", "methods:list", ""),
    ("For programs", "terminal-2", "programs:page", "Programs"),
    ("API", "api", "api-docs", ""),
)
# Pages that no entry's address leads to, and the entry that they belong to.
ELSEWHERE = {"chains:": "training:list", "sweeps:": "training:list", "exports:": "models:list"}
# Each with the permission that it takes, "" for the flag of staff.
OPERATORS = (
    ("Serving", "server", "serving:serving", "For operators", "jobs.view_devicepolicy"),
    ("Administration", "shield-lock", "admin:index", "For operators", ""),
)


@register.simple_tag(takes_context=True)
def menu_entries(context: dict[str, Any]) -> list[Entry]:
    """What this reader can open; the entry of the page that is open has `here`."""
    request = context["request"]
    user = context["user"]
    offered = ENTRIES + _for_operators(user)
    entries: list[Entry] = []

    for title, picture, name, heading in offered:
        try:
            url = reverse(name)
        except NoReverseMatch:
            continue

        counts = name == "training:list"
        running = TrainRun.objects.visible_to(user).active().count() if counts else 0
        entries.append(Entry(title, picture, url, False, heading, counts, running))

    # /trains/queue/ lies below /trains/: the longest address that fits is where the reader is.
    fitting = [entry.url for entry in entries if request.path.startswith(entry.url)]
    here = max(fitting, key=len, default="") or _elsewhere(request)
    return [replace(entry, here=entry.url == here) for entry in entries]


def _for_operators(user: Any) -> tuple[tuple[str, str, str, str], ...]:
    """The heading stands above the first of them."""
    allowed = [
        (title, picture, name, heading)
        for title, picture, name, heading, right in OPERATORS
        if (user.has_perm(right) if right else user.is_staff)
    ]
    return tuple(
        (title, picture, name, "" if number else heading)
        for number, (title, picture, name, heading) in enumerate(allowed)
    )


def _elsewhere(request: Any) -> str:
    """The address of the entry that a page elsewhere belongs to, or nothing."""
    match = request.resolver_match
    space = f"{match.namespace}:" if match is not None else ""
    return reverse(ELSEWHERE[space]) if space in ELSEWHERE else ""


@register.simple_tag(takes_context=True)
def offers_sample(context: dict[str, Any]) -> bool:
    """Whether the page can offer the sample dataset and a first train with it."""
    return sample_is_offered(context["user"])


@register.simple_tag(takes_context=True)
def column(
    context: dict[str, Any], title: str, name: str, classes: str = "", note: str = ""
) -> SafeString:
    """The head of a column that sorts the list."""
    wanted, state = sort_link(context["ordering"], name)
    return format_html(
        '<th{} scope="col" aria-sort="{}"><a class="sort" href="{}" title="{}">{}{}</a></th>',
        format_html(' class="{}"', classes) if classes else "",
        state,
        query(context, ordering=wanted),
        note or f"Sort by {title.lower()}",
        title,
        icon("arrow-up"),
    )
