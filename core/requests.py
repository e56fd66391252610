"""What page views need of a request: who reads, and the row that an address names."""

from __future__ import annotations

from typing import TypeVar

from django.contrib.auth.models import User
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest

M = TypeVar("M", bound=Model)

# What a database column of ids holds; a larger number in an address names no row.
LARGEST_ID = 2**63 - 1


def reader_of(request: HttpRequest) -> User:
    """Who is signed in. Pages behind the sign-in have nobody else."""
    assert isinstance(request.user, User)
    return request.user


def row_or_404(rows: QuerySet[M], pk: int) -> M:
    """The row of that id. Raises Http404, also for an id that no column can hold."""
    row = rows.filter(pk=pk).first() if pk <= LARGEST_ID else None
    if row is None:
        raise Http404

    return row
