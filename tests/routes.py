"""Every address of the platform, filled in with ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver

# For everybody: signing in, and whether the platform is up.
OPEN = {"login", "admin:login", "healthz", "api-token"}
# Without mail there are none of these.
OPEN |= {"password-reset", "password-reset-done", "password-reset-confirm"}


@dataclass(frozen=True)
class Route:
    name: str
    pattern: str
    view: Any

    def path(self, values: dict[str, str], otherwise: str) -> str:
        """With `values` for the parameters of these names, and `otherwise` for all others."""

        def fill(found: re.Match[str]) -> str:
            return values.get(found[1], otherwise)

        path = re.sub(r"<(?:\w+:)?(\w+)>", fill, self.pattern)
        # A regular expression, as Django's admin and django-rq have them.
        path = re.sub(r"\(\?P<(\w+)>[^)]*\)\+?", fill, path)
        return "/" + re.sub(r"\\Z|/\?\$|[\\^$?]", "", path).lstrip("/")


def routes(patterns: Any = None, prefix: str = "", namespace: str = "") -> Iterator[Route]:
    """The whole URLconf."""
    for pattern in patterns if patterns is not None else get_resolver().url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            inner = ":".join(part for part in (namespace, pattern.namespace) if part)
            yield from routes(pattern.url_patterns, route, inner)
        elif isinstance(pattern, URLPattern):
            name = ":".join(part for part in (namespace, pattern.name) if part)
            yield Route(name, route, pattern.callback)


def addresses() -> list[tuple[str, str]]:
    """(name, path) of every route, with an id or slug that may be there."""
    return [(route.name, route.path({"slug": "lora"}, "1")) for route in routes()]
