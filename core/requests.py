"""What every view reads of a request: who asks, whole numbers with their bounds, the row of an id.

For pages and API alike: Django's exceptions are answered in the API's one error shape too."""

from __future__ import annotations

import re
from typing import TypeVar

from django.contrib.auth.models import User
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest
from rest_framework.request import Request

# The largest id that a database column holds.
LARGEST_ID = 2**63 - 1
# Longer texts are no numbers here: Python refuses to read thousands of digits, with a ValueError.
INTEGER = re.compile(r"-?[0-9]{1,19}")

Row = TypeVar("Row", bound=Model)


def reader_of(request: HttpRequest | Request) -> User:
    """Who asks. For views that only people who are signed in reach."""
    assert isinstance(request.user, User)
    return request.user


def integer_of(text: str, *, least: int = 0, most: int = LARGEST_ID) -> int | None:
    """The whole number that `text` is, in ASCII digits; None for any other text, and for a number
    below `least` or above `most`."""
    if not INTEGER.fullmatch(text):
        return None

    number = int(text)
    return number if least <= number <= most else None


def row_or_404(rows: QuerySet[Row], pk: int) -> Row:
    """The row of that id among `rows`. Raises Http404, also for an id that no column holds."""
    row = rows.filter(pk=pk).first() if 0 <= pk <= LARGEST_ID else None
    if row is None:
        raise Http404

    return row
