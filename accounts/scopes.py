"""What a token may do. One table, and one function that reads it for the whole API.

A scope lists the parts of the API, by the first segment of their path, in which a token may do more
than read."""

from __future__ import annotations

from dataclasses import dataclass, field

from django.urls import ResolverMatch

READING = frozenset({"GET", "HEAD", "OPTIONS"})
CREATING = READING | {"POST", "PUT", "PATCH"}
EVERYTHING = CREATING | {"DELETE"}

# POST because their question does not fit into an address; they change nothing.
READING_POSTS = frozenset({"api-trains-plan"})
# Within the areas, and still beyond what they are for: calls that may delete, publish or give away.
WHOLE_SCOPE_ONLY = frozenset(
    {
        "api-trains-bulk",
        *(
            f"api-{kind}-{call}"
            for kind in ("train", "dataset", "model")
            for call in ("sharing", "hand-over")
        ),
    }
)


@dataclass(frozen=True)
class Scope:
    """`methods`: allowed everywhere. `areas`: {first segment of the path below /api/v1/: allowed
    there as well}."""

    name: str
    title: str
    description: str
    methods: frozenset[str]
    areas: dict[str, frozenset[str]] = field(default_factory=dict)


SCOPES = {
    scope.name: scope
    for scope in (
        Scope("read", "Read", "See everything you see, and change nothing.", READING),
        Scope(
            "train",
            "Train",
            "Read; also upload datasets, add models, and start, stop and change trains. Deletes, "
            "shares and hands over "
            "nothing.",
            READING,
            {"trains": CREATING, "datasets": CREATING, "models": CREATING},
        ),
        Scope("all", "All", "Everything you may do yourself.", EVERYTHING),
    )
}


def scope_allows(name: str, method: str, match: ResolverMatch) -> bool:
    """Whether a token of the scope `name` may call `method` at this address. An unknown scope may
    nothing."""
    scope = SCOPES.get(name)
    if scope is None:
        return False

    if method in scope.methods or (method == "POST" and match.url_name in READING_POSTS):
        return True
    if match.url_name in WHOLE_SCOPE_ONLY and method not in scope.methods and scope.areas:
        return False

    return method in scope.areas.get(api_area(match.route), frozenset())


def api_area(route: str) -> str:
    """ "trains" of "api/v1/trains/<int:pk>/stop/"."""
    return route.removeprefix("api/v1/").partition("/")[0]
