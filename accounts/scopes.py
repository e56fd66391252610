"""What a token may do. One table, and one function that reads it for the whole API.

A scope lists the parts of the APIs, by the first segment of their path, in which a token may do
more than everywhere else."""

from __future__ import annotations

from dataclasses import dataclass, field

from django.urls import ResolverMatch

READING = frozenset({"GET", "HEAD", "OPTIONS"})
CREATING = READING | {"POST", "PUT", "PATCH"}
EVERYTHING = CREATING | {"DELETE"}

# They change nothing, and are POSTs because their parameters do not fit into an address.
READING_POSTS = frozenset({"api-trains-plan"})
# Calls that no area opens, since they may delete, publish or give away.
WHOLE_SCOPE_ONLY = frozenset(
    {
        "api-trains-bulk",
        "api-train-sharing",
        "api-train-hand-over",
        "api-dataset-sharing",
        "api-dataset-hand-over",
        "api-model-sharing",
        "api-model-hand-over",
        "api-chain-sharing",
        "api-chain-hand-over",
        "api-conversation-sharing",
        "api-conversation-hand-over",
        # They make datasets, and show rows of them.
        "api-conversations-dataset",
        "api-conversations-prompts",
    }
)


@dataclass(frozen=True)
class Scope:
    """`methods`: allowed everywhere. `areas`: {area of api_area(): allowed there as well}."""

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
            "Read; also upload datasets, add models, start, stop and change trains and chains, stop "
            "and move other jobs, and ask models. Deletes, shares and hands over nothing.",
            READING,
            {
                "trains": CREATING,
                "chains": CREATING,
                "datasets": CREATING,
                "models": CREATING,
                "exports": CREATING,
                "jobs": CREATING,
                "v1/files": CREATING,
                "v1/uploads": CREATING,
                "v1/fine_tuning": CREATING,
                "v1/chat": CREATING,
                "v1/completions": CREATING,
                "v1/responses": CREATING,
                "v1/embeddings": CREATING,
                "v1/batches": CREATING,
            },
        ),
        Scope(
            "chat",
            "Chat",
            "See which models can be asked, and ask them: chat, completions, responses and batches of "
            "them. Sees no datasets and trains nothing.",
            frozenset(),
            {
                "conversations": EVERYTHING,
                "v1/models": READING,
                "v1/chat": EVERYTHING,
                "v1/completions": EVERYTHING,
                "v1/responses": EVERYTHING,
                "v1/embeddings": EVERYTHING,
                "v1/batches": EVERYTHING,
                "v1/files": CREATING,
            },
        ),
        Scope(
            "all", "Admin", "Everything you may do yourself, deleting and sharing too.", EVERYTHING
        ),
    )
}


def scope_allows(name: str, method: str, match: ResolverMatch) -> bool:
    """Whether a token of the scope `name` may call `method` at this address. An unknown scope
    allows nothing."""
    scope = SCOPES.get(name)
    if scope is None:
        return False

    if method in scope.methods:
        return True
    if method == "POST" and match.url_name in READING_POSTS:
        return "GET" in scope.methods
    if match.url_name in WHOLE_SCOPE_ONLY:
        return False

    area = api_area(match.route)
    return method in scope.areas.get(area, frozenset())


def api_area(route: str) -> str:
    """The first segment of a route: "trains" in "api/v1/trains/<int:pk>/stop/", "v1/files" in
    "v1/files/<str:name>/content"."""
    if route.startswith("v1/"):
        return "/".join(route.split("/")[:2])

    path = route.removeprefix("api/v1/")
    return path.partition("/")[0]
