"""The markup of a page as tests compare it."""

from __future__ import annotations

from typing import Any


def markup(response: Any) -> str:
    """The page with one space for each stretch of white space: templates break lines, within tags
    too, where a browser sees a space."""
    return " ".join(response.content.decode().split())


def typed(content: str) -> str:
    """What a browser has in a <textarea> of that content: HTML takes a line break behind the tag
    for none of the text's own."""
    return content.removeprefix("\n")


# What htmx says of itself with every request.
HTMX = {"HX-Request": "true"}


def no_cache_mixes(client: Any, path: str) -> bool:
    """Whether no cache can answer a page with a part of it, or a part with the page."""
    answers = [client.get(path), client.get(path, headers=HTMX)]
    return all(
        answer.headers["Cache-Control"] == "no-store"
        and "HX-Request" in answer.headers["Vary"].split(", ")
        for answer in answers
    )
