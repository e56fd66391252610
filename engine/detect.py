"""Which format a file has, told by its columns. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from engine.examples import RowProblem, rating_read, to_example
from engine.formats import FORMATS, Format

SOME_LIKENESS = 0.6
# A column of prompts stands in most files: only where nothing else fits they are all there is.
WEAKEST = "prompt-only"


def detect(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """(slug, {the format's column: the file's column}), or ("", {}) for columns that no format has.

    The names themselves first, in the order of FORMATS; then aliases, where the format that explains most columns wins.
    """
    exact = [
        (item, column_map)
        for item in FORMATS.values()
        if item.slug != WEAKEST and (column_map := _matched(item, columns, aliases=False))
    ]
    rated = _matched(FORMATS["kto"], columns, aliases=True)
    if rated and not any(item.slug == "preference" for item, _ in exact) and _is_rated(rated, sample):
        return "kto", rated
    for item, column_map in exact:
        if _suits(item.slug, column_map, sample, has_pairs=any(other.slug == "preference" for other, _ in exact)):
            return item.slug, _matched(item, columns, aliases=True)
    loose = [(item, column_map) for item in FORMATS.values() if (column_map := _matched(item, columns, aliases=True))]
    loose = [pair for pair in loose if _suits(pair[0].slug, pair[1], sample, has_pairs=False)]
    if not loose:
        return "", {}
    best, column_map = max(loose, key=lambda pair: len(pair[1]))
    return best.slug, column_map


def _matched(item: Format, columns: Sequence[str], *, aliases: bool) -> dict[str, str]:
    """The column map by name, upper and lower case alike; empty where a needed column is missing."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(str(column).strip().lower(), column)
    found: dict[str, str] = {}
    for wanted in (*item.columns, *item.optional):
        names = (wanted, *(item.aliases.get(wanted, ()) if aliases else ()))
        name = next((name for name in names if name in by_name and by_name[name] not in found.values()), None)
        if name is not None:
            found[wanted] = by_name[name]
    return found if all(column in found for column in item.columns) else {}


def _suits(slug: str, column_map: dict[str, str], sample: Sequence[dict[str, Any]], *, has_pairs: bool) -> bool:
    """Whether the values bear out what the names say, where names alone would mislead."""
    if slug == "kto":
        # A column named label may be anything; only yes and no is a rating.
        ratings = [values.get(column_map["label"]) for values in sample]
        return bool(ratings) and all(rating_read(rating) is not None for rating in ratings)
    if slug in ("messages", "conversations") and has_pairs:
        # Beside chosen and rejected a conversation is mostly the prompt alone, with no answer of its own.
        return any(_is_good(values, slug, column_map) for values in sample)
    return True


def _is_rated(column_map: dict[str, str], sample: Sequence[dict[str, Any]]) -> bool:
    """Whether these are conversations with a rating, which would be learned as good ones throughout if it were passed
    over: said by the column's name, or by values that can mean nothing else."""
    label = column_map["label"]
    ratings = [values.get(label) for values in sample]
    if not _suits("kto", column_map, sample, has_pairs=False):
        return False
    return label.strip().lower() == "kto_tag" or all(isinstance(rating, bool) for rating in ratings)


def _is_good(values: dict[str, Any], slug: str, column_map: dict[str, str]) -> bool:
    try:
        to_example(values, slug, column_map)
    except RowProblem:
        return False
    return True


def nearest(columns: Sequence[str], count: int = 2) -> list[Format]:
    """The formats whose columns look most like these, for a message about a file that fits none."""
    names = [str(column).lower() for column in columns]

    def likeness(item: Format) -> float:
        best = [
            max((difflib.SequenceMatcher(None, wanted, name[:40]).ratio() for name in names[:100]), default=0.0)
            for wanted in item.columns
        ]
        return sum(best) / len(best)

    near = sorted(FORMATS.values(), key=likeness, reverse=True)
    if likeness(near[0]) < SOME_LIKENESS:
        # Names of another language, or none at all: what most people have.
        near = [FORMATS["question-answer"], FORMATS["messages"]]
    return near[:count]
