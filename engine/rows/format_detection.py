"""Detects which format a file has by its columns. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from engine.rows.chat_turns import ROLE_KEYS, ROLES
from engine.rows.column_map import is_taken
from engine.rows.examples import example_or_none, rating_read
from engine.rows.formats import FORMATS, Format
from engine.rows.values import value_at

SOME_LIKENESS = 0.6
# A column of prompts stands in most files: only where nothing else fits they are all there is.
WEAKEST = "prompt-only"
# A question beside a text may as well be one about it.
ASKED_BESIDE_TEXT = ("prompt", "instruction")
CHATS = ("messages", "conversations")
# Fields within columns are offered down to this depth, so many of them.
NESTED_DEPTH = 2
NESTED_FIELDS = 100

# (slug, {the format's column: the file's})
Match = tuple[str, dict[str, str]]


def nested_columns(sample: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """{column: the fields within it, written column.field}, of columns that hold objects."""
    nested: dict[str, dict[str, None]] = {}
    count = 0

    for values in sample:
        for column, value in values.items():
            if not isinstance(value, dict) or count >= NESTED_FIELDS:
                continue

            fields = nested.setdefault(column, {})
            before = len(fields)
            fields.update(dict.fromkeys(_fields(column, value, NESTED_DEPTH)))
            count += len(fields) - before

    return {column: list(fields) for column, fields in nested.items()}


def _fields(parent: str, value: dict[str, Any], depth: int) -> list[str]:
    paths = []
    for name, inner in list(value.items())[:NESTED_FIELDS]:
        path = f"{parent}.{name}"
        paths.append(path)

        if isinstance(inner, dict) and depth > 1:
            paths += _fields(path, inner, depth - 1)

    return paths


def detect_format(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Match:
    """(slug, {the format's column: the file's column}), or ("", {}) for columns that no format has.

    columns: fields within columns may be among them. The names themselves first, in the order of
    FORMATS; then aliases, where the format that explains most columns wins.
    """
    exact = _matches(columns, aliases=False)
    exact.pop(WEAKEST, None)

    has_pairs = "preference" in exact
    if not has_pairs:
        special = _ratings_or_pairs(columns, sample)
        if special:
            return special

    for slug, column_map in exact.items():
        if _suits(slug, column_map, sample, has_pairs=has_pairs):
            whole_map = _matched(FORMATS[slug], columns, aliases=True)
            return _questions_alone(slug, whole_map, columns, sample) or (slug, whole_map)

    loose = {
        slug: column_map
        for slug, column_map in _matches(columns, aliases=True).items()
        if _suits(slug, column_map, sample, has_pairs=False)
    }
    if not loose:
        return _answers_as_text(columns, sample) or ("", {})

    best = max(loose, key=lambda slug: len(loose[slug]))
    if best in (WEAKEST, "text"):
        answers = _answers_as_text(columns, sample)
        if answers:
            return answers

    return _questions_alone(best, loose[best], columns, sample) or (best, loose[best])


def _matches(columns: Sequence[str], *, aliases: bool) -> dict[str, dict[str, str]]:
    """{slug: column map} of the formats whose needed columns are all there."""
    matches = {}
    for slug, item in FORMATS.items():
        column_map = _matched(item, columns, aliases=aliases)
        if column_map:
            matches[slug] = column_map

    return matches


def _ratings_or_pairs(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Match | None:
    """Conversations beside which a rating or a worse answer stands, which would be learned as good
    ones throughout if that were passed over."""
    rated = _matched(FORMATS["kto"], columns, aliases=True)
    if rated and _is_rated(rated, sample):
        return "kto", rated

    paired = _matched(FORMATS["preference"], columns, aliases=True)
    if paired and _any_good(sample, "preference", paired):
        return "preference", paired

    return None


def _questions_alone(
    slug: str, column_map: dict[str, str], columns: Sequence[str], sample: Sequence[dict[str, Any]]
) -> Match | None:
    """Conversations that all end with a question are prompts, to which a reference may stand in
    another column. None for other conversations."""
    if slug not in CHATS or not sample or _any_good(sample, slug, column_map):
        return None

    turns = column_map[slug]
    for values in sample:
        value = value_at(values, turns)
        # A conversation written as one text is no question, whatever it ends with.
        if isinstance(value, str) and not value.lstrip().startswith("["):
            return None

    prompts = {"prompt": turns}
    if "system" in column_map:
        prompts["system"] = column_map["system"]

    if not _any_good(sample, WEAKEST, prompts):
        return None

    answers = _matched(FORMATS["prompt-completion"], ["prompt", *columns], aliases=True)
    if answers:
        return "prompt-completion", answers | prompts

    return WEAKEST, prompts


def _answers_as_text(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Match | None:
    """Prompts beside which a column of texts holds the answers, and not prompt and answer
    together."""
    asked_columns = [name for name in columns if str(name).strip().lower() in ASKED_BESIDE_TEXT]
    prompts = _matched(FORMATS[WEAKEST], asked_columns, aliases=True)
    texts = _matched(FORMATS["text"], columns, aliases=True)
    if not prompts or not texts or prompts["prompt"] == texts["text"]:
        return None

    for values in sample:
        asked = values.get(prompts["prompt"])
        text = values.get(texts["text"])
        if isinstance(asked, str) and isinstance(text, str) and asked.strip() in text:
            return None

    column_map = prompts | {"completion": texts["text"]}
    if not _any_good(sample, "prompt-completion", column_map):
        return None

    return "prompt-completion", column_map


def _matched(item: Format, columns: Sequence[str], *, aliases: bool) -> dict[str, str]:
    """The column map by name, upper and lower case alike; empty where a needed column is
    missing."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(str(column).strip().lower(), column)

    column_map: dict[str, str] = {}
    for wanted in (*item.columns, *item.optional):
        names = [wanted]
        if aliases:
            names += item.aliases.get(wanted, ())

        for name in names:
            if name in by_name and not is_taken(by_name[name], column_map.values()):
                column_map[wanted] = by_name[name]
                break

    has_needed = all(column in column_map for column in item.columns)
    return column_map if has_needed else {}


def _suits(
    slug: str, column_map: dict[str, str], sample: Sequence[dict[str, Any]], *, has_pairs: bool
) -> bool:
    """Whether the values bear out what the names say, where names alone would mislead."""
    if slug == "kto":
        # A column named label may be anything; only yes and no is a rating.
        ratings = [value_at(values, column_map["label"]) for values in sample]
        return bool(ratings) and all(rating_read(rating) is not None for rating in ratings)

    if slug in CHATS and has_pairs:
        # Beside chosen and rejected a conversation is mostly the prompt alone, with no answer of
        # its own.
        return _any_good(sample, slug, column_map)

    if slug == "text":
        # Rows that are turns one by one have a text too, and to learn them alone would make no
        # sense.
        is_single_turns = any(_is_turn(values) for values in sample)
        return not is_single_turns and not _answers_beside(column_map, sample)

    return True


def _is_turn(values: dict[str, Any]) -> bool:
    for key in ROLE_KEYS:
        name = values.get(key)
        if isinstance(name, str) and name.strip().lower() in ROLES:
            return True

    return False


def _answers_beside(column_map: dict[str, str], sample: Sequence[dict[str, Any]]) -> bool:
    """Whether the column of texts holds answers to prompts in another one."""
    columns: dict[str, None] = {}
    for values in sample:
        columns.update(dict.fromkeys(values))

    match = _answers_as_text(list(columns), sample)
    if match is None:
        return False

    _, answers = match
    return answers["completion"] == column_map["text"]


def _is_rated(column_map: dict[str, str], sample: Sequence[dict[str, Any]]) -> bool:
    """Whether these are conversations with a rating, which would be learned as good ones throughout
    if it were passed over: said by the column's name, or by values that can mean nothing else."""
    if not _suits("kto", column_map, sample, has_pairs=False):
        return False

    label = column_map["label"]
    if label.strip().lower() == "kto_tag":
        return True

    return all(isinstance(values.get(label), bool) for values in sample)


def _any_good(sample: Sequence[dict[str, Any]], slug: str, column_map: dict[str, str]) -> bool:
    """Whether any row of the sample can be learned from, read as this format."""
    return any(example_or_none(values, slug, column_map) is not None for values in sample)


def nearest_formats(columns: Sequence[str], count: int = 2) -> list[Format]:
    """The formats whose columns look most like these, for a message about a file that fits none."""
    names = [str(column).lower()[:40] for column in columns[:100]]

    def likeness(item: Format) -> float:
        total = 0.0
        for wanted in item.columns:
            ratios = [difflib.SequenceMatcher(None, wanted, name).ratio() for name in names]
            total += max(ratios, default=0.0)

        return total / len(item.columns)

    nearest = sorted(FORMATS.values(), key=likeness, reverse=True)
    if likeness(nearest[0]) < SOME_LIKENESS:
        # Names of another language, or none at all: what most people have.
        nearest = [FORMATS["question-answer"], FORMATS["messages"]]

    return nearest[:count]
