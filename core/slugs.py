"""Slugs, by which programs know a row."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from typing import Any

from django.db.models import QuerySet
from django.utils.text import slugify


def slug_free(
    rows: QuerySet[Any],
    name: str,
    *,
    fallback: str,
    reserved: Collection[str] = (),
    limit: int = 120,
) -> str:
    """A slug made of `name` that none of `rows` has, numbered where it is taken.

    fallback: what kind of thing it is, for a name without a letter. It also precedes a slug that
    would be taken for an id, or is `reserved` for an address of the API. limit: characters, before
    such a prefix or number.
    """
    base = slugify(name)[:limit].strip("-_") or fallback
    if base.isdigit() or base in reserved:
        base = f"{fallback}-{base}"

    taken = set(rows.filter(slug__startswith=base).values_list("slug", flat=True))
    if base not in taken:
        return base

    numbered = (f"{base}-{number}" for number in count(2))
    return next(slug for slug in numbered if slug not in taken)
