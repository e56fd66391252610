"""Lists as OpenAI's API pages them: `limit`, and `after` with the id of the last row one has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework.request import Request

from core.requests import integer_of
from openai_api.errors import ApiProblem

Row = TypeVar("Row", bound=Model)


def list_body(items: Sequence[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def limit_of(request: Request, *, default: int = 20, most: int = 100) -> int:
    """`limit` of the address. Raises ApiProblem."""
    text = request.query_params.get("limit")
    if text is None:
        return default

    limit = integer_of(text, least=1, most=most)
    if limit is None:
        raise ApiProblem(f"limit must be a whole number from 1 to {most:,}.", param="limit")

    return limit


def is_ascending(request: Request) -> bool:
    """Whether `order` of the address asks for the oldest first. Raises ApiProblem."""
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiProblem("order must be asc or desc.", param="order")

    return order == "asc"


def rows_page(
    request: Request,
    rows: QuerySet[Row],
    *,
    find: Callable[[str], Row | None],
    default: int = 20,
    most: int = 100,
) -> tuple[list[Row], bool]:
    """(rows of this page, whether there are more), the newest first unless `order` says otherwise.

    find: the row of the id in `after`, None for one that this reader may not see. Raises
    ApiProblem."""
    limit = limit_of(request, default=default, most=most)
    ascending = is_ascending(request)

    # Not by time: many rows have the same second, and ids only grow.
    rows = rows.order_by("pk" if ascending else "-pk")
    if after := request.query_params.get("after"):
        last = find(after)
        if last is None:
            raise ApiProblem(f"There is no {after[:100]!r} to go on after.", param="after")

        rows = rows.filter(pk__gt=last.pk) if ascending else rows.filter(pk__lt=last.pk)

    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def items_page(
    request: Request, items: Sequence[dict[str, Any]], *, default: int = 20, most: int = 100
) -> dict[str, Any]:
    """A page of what is in memory already, in the order in which it is given. Raises ApiProblem."""
    limit = limit_of(request, default=default, most=most)
    start = 0

    if after := request.query_params.get("after"):
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ApiProblem(f"There is no {after[:100]!r} to go on after.", param="after")

        start = places[0] + 1

    found = items[start : start + limit]
    return list_body(found, has_more=start + limit < len(items))
