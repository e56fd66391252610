"""Every URL asks who is there, and hides what is a stranger's."""

import pytest
from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver

# For everybody: signing in, and whether the platform is up.
OPEN = {"login", "admin:login", "healthz", "api-token"}
OPEN |= {"password-reset", "password-reset-done", "password-reset-confirm"}


def routes(patterns=None, prefix="", namespace=""):
    """(name, path with every parameter filled in) of the whole URLconf."""
    for pattern in patterns if patterns is not None else get_resolver().url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            inner = ":".join(part for part in (namespace, pattern.namespace) if part)
            yield from routes(pattern.url_patterns, route, inner)
        elif isinstance(pattern, URLPattern):
            yield ":".join(part for part in (namespace, pattern.name) if part), fill(route)


def fill(route: str) -> str:
    import re

    route = re.sub(r"<(int:)?(pk|id|run_id|[a-z_]*id)>", "1", route)
    route = re.sub(r"<uuid:[^>]*>", "00000000-0000-4000-8000-000000000000", route)
    route = re.sub(r"<[^>]*>", "lora", route)
    route = re.sub(r"\(\?P[^)]*\)+", "1", route)
    return "/" + route.replace("^", "").replace("$", "").replace("\\Z", "").replace("\\", "").lstrip("/")


ROUTES = sorted({(name, path) for name, path in routes()})


def test_it_sees_the_whole_urlconf():
    names = {name for name, _ in ROUTES}
    assert {"training:list", "datasets:list", "models:list", "methods:list", "api-trains", "api-schema"} <= names


@pytest.mark.parametrize(("name", "path"), ROUTES)
def test_it_asks_strangers_to_sign_in(client, db, name, path):
    if name in OPEN:
        pytest.skip("open to everybody")
    for method in ("get", "post"):
        response = getattr(client, method)(path)
        if path.startswith("/api/") and name != "api-docs":
            assert response.status_code == 401, (method, path)
        else:
            assert response.status_code == 302, (method, path)
            assert "/login/" in response["Location"], (method, path)
