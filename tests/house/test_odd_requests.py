"""Every page with odd input: refused or answered, never a server error."""

from __future__ import annotations

from itertools import product

import pytest

from tests.routes import addresses
from tests.training.conftest import make_train  # noqa: F401 - a fixture

pytestmark = pytest.mark.long

DIGITS = "9" * 5000
ODD = ["foo", "9" * 30, "\x00\ud83d"]
NAMES = (
    "next",
    "ids",
    "page",
    "page_size",
    "newest",
    "copy",
    "step",
    "steps",
    "from",
    "to",
    "until",
    "since",
    "ordering",
    "status",
    "search",
    "baseline",
    "model",
    "format",
    "limit",
    "way",
    "archived",
    "after",
    "before",
    "offset",
    "q",
    "priority",
    "name",
    "reference",
    "source",
    "method",
    "dataset",
    "base_model",
    "repair",
    "key",
    "device",
    "label",
)
FORGOTTEN = {"admin:jsi18n"}


def odd_pages():
    seen = set()
    for name, path in addresses():
        if not path.startswith("/api/") and path not in seen and name not in FORGOTTEN:
            seen.add(path)
            yield path


def odd_paths():
    """Pages with something odd where an address has a word or a number."""
    for path in odd_pages():
        for word in ("lora", "1"):
            if f"/{word}/" in path:
                for odd in (DIGITS, "%00", "a" * 3000):
                    yield path.replace(f"/{word}/", f"/{odd}/")


def ask(client, method, path, data):
    """The status. Errors are answers, as they are outside of tests; there is no Redis here, so 503
    is right as well."""
    client.raise_request_exception = False
    return getattr(client, method)(path, data).status_code


def test_pages_answer_odd_addresses_and_fields(client, olga, make_train):  # noqa: F811
    make_train(status="running", attempt=1, step=3, total_steps=10)
    client.force_login(olga)
    failures = []
    for path in odd_pages():
        for method in ("get", "post"):
            for odd in ODD:
                if path == "/logout/":
                    continue
                data = dict.fromkeys(NAMES, odd.encode("utf-8", "surrogatepass"))
                if ask(client, method, path, data) == 500:
                    failures.append(f"{method} {path} with {odd[:20]!r}")
    failures += [f"get {path[:80]}" for path in odd_paths() if ask(client, "get", path, {}) == 500]
    assert failures == []


NUMBERS = (
    "ids",
    "page",
    "newest",
    "copy",
    "step",
    "from",
    "to",
    "until",
    "baseline",
    "limit",
    "after",
    "offset",
)


def test_pages_answer_a_single_odd_field(client, alice, make_train):  # noqa: F811
    """One at a time, for the first that is refused hides the others."""
    run = make_train(status="finished", attempt=1, step=10, total_steps=10)
    client.force_login(alice)
    failures = []
    paths = [
        "/trains/",
        "/trains/live/",
        "/trains/compare/",
        "/datasets/",
        "/datasets/1/",
        "/models/",
        f"/trains/{run.pk}/log/",
        f"/trains/{run.pk}/series/",
        f"/trains/{run.pk}/evaluation/completions/",
    ]
    for path, name, odd in product(paths, NUMBERS, ("foo", DIGITS, "0" * 5000)):
        if ask(client, "get", path, {name: odd}) == 500:
            failures.append(f"get {path}?{name}={odd[:20]!r}")
    assert failures == []
