"""Which format a file has, told by its columns. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from engine.rows.chat_turns import ROLE_KEYS, ROLES
from engine.rows.column_map import is_taken
from engine.rows.examples import RowProblem, rating_read, to_example
from engine.rows.formats import FORMATS, Format
from engine.rows.values import value_at

SOME_LIKENESS = 0.6
# A column of prompts stands in most files: only where nothing else fits they are all there is.
WEAKEST = "prompt-only"
# A question beside a text may as well be one about it.
ASKED_BESIDE_TEXT = ("prompt", "instruction")
CHATS = ("messages", "conversations")
# Fields within columns are offered down to this depth, so many of them.
NESTED_DEPTH, NESTED_FIELDS = 2, 100


def nested_columns(sample: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """{column: the fields within it, written column.field}, of columns that hold objects."""
    found: dict[str, dict[str, None]] = {}
    count = 0

    for values in sample:
        for column, value in values.items():
            if not isinstance(value, dict) or count >= NESTED_FIELDS:
                continue

            fields = found.setdefault(column, {})
            before = len(fields)
            fields.update(dict.fromkeys(_fields(column, value, NESTED_DEPTH)))
            count += len(fields) - before

    return {column: list(fields) for column, fields in found.items()}


def _fields(parent: str, value: dict[str, Any], depth: int) -> list[str]:
    found = []
    for name, inner in list(value.items())[:NESTED_FIELDS]:
        path = f"{parent}.{name}"
        found.append(path)

        if isinstance(inner, dict) and depth > 1:
            found += _fields(path, inner, depth - 1)

    return found


def detect_format(
    columns: Sequence[str], sample: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, str]]:
    """(slug, {the format's column: the file's column}), or ("", {}) for columns that no format has.

    columns: fields within columns may be among them. The names themselves first, in the order of
    FORMATS; then aliases, where the format that explains most columns wins.
    """
    exact = [
        (item, column_map)
        for item in FORMATS.values()
        if item.slug != WEAKEST and (column_map := _matched(item, columns, aliases=False))
    ]

    has_pairs = any(item.slug == "preference" for item, _ in exact)
    if not has_pairs and (special := _ratings_or_pairs(columns, sample)):
        return special

    for item, column_map in exact:
        if _suits(item.slug, column_map, sample, has_pairs=has_pairs):
            whole_map = _matched(item, columns, aliases=True)
            return _questions_alone(item.slug, whole_map, columns, sample) or (item.slug, whole_map)

    loose = [
        (item, column_map)
        for item in FORMATS.values()
        if (column_map := _matched(item, columns, aliases=True))
    ]

    loose = [pair for pair in loose if _suits(pair[0].slug, pair[1], sample, has_pairs=False)]
    if not loose:
        return _answers_as_text(columns, sample) or ("", {})

    best, column_map = max(loose, key=lambda pair: len(pair[1]))
    if best.slug in (WEAKEST, "text") and (answers := _answers_as_text(columns, sample)):
        return answers

    return _questions_alone(best.slug, column_map, columns, sample) or (best.slug, column_map)


def _ratings_or_pairs(
    columns: Sequence[str], sample: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, str]] | None:
    """Conversations beside which a rating or a worse answer stands, which would be learned as good
    ones throughout if that were passed over."""
    rated = _matched(FORMATS["kto"], columns, aliases=True)
    if rated and _is_rated(rated, sample):
        return "kto", rated

    paired = _matched(FORMATS["preference"], columns, aliases=True)
    if paired and any(_is_good(values, "preference", paired) for values in sample):
        return "preference", paired

    return None


def _questions_alone(
    slug: str, column_map: dict[str, str], columns: Sequence[str], sample: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, str]] | None:
    """What conversations are that all end with a question: prompts, to which a reference may stand
    in another column."""
    if (
        slug not in CHATS
        or not sample
        or any(_is_good(values, slug, column_map) for values in sample)
    ):
        return None

    turns = column_map[slug]
    if not all(_may_be_turns(value_at(values, turns)) for values in sample):
        # A conversation written as one text is no question, whatever it ends with.
        return None

    others = {name: source for name, source in column_map.items() if name == "system"}
    prompts = {"prompt": turns} | others
    if not any(_is_good(values, WEAKEST, prompts) for values in sample):
        return None

    answers = _matched(FORMATS["prompt-completion"], ["prompt", *columns], aliases=True)
    if answers:
        return "prompt-completion", answers | prompts

    return WEAKEST, prompts


def _may_be_turns(value: Any) -> bool:
    return not isinstance(value, str) or value.lstrip().startswith("[")


def _answers_as_text(
    columns: Sequence[str], sample: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, str]] | None:
    """Prompts beside which a column of texts holds the answers, and not prompt and answer
    together."""
    asked_columns = [
        column for column in columns if str(column).strip().lower() in ASKED_BESIDE_TEXT
    ]
    prompts = _matched(FORMATS[WEAKEST], asked_columns, aliases=True)
    texts = _matched(FORMATS["text"], columns, aliases=True)
    if not prompts or not texts or prompts["prompt"] == texts["text"] or not sample:
        return None

    for values in sample:
        asked, text = values.get(prompts["prompt"]), values.get(texts["text"])
        if isinstance(asked, str) and isinstance(text, str) and asked.strip() in text:
            return None

    column_map = prompts | {"completion": texts["text"]}
    if not any(_is_good(values, "prompt-completion", column_map) for values in sample):
        return None

    return "prompt-completion", column_map


def _matched(item: Format, columns: Sequence[str], *, aliases: bool) -> dict[str, str]:
    """The column map by name, upper and lower case alike; empty where a needed column is
    missing."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(str(column).strip().lower(), column)

    found: dict[str, str] = {}
    for wanted in (*item.columns, *item.optional):
        names = (wanted, *(item.aliases.get(wanted, ()) if aliases else ()))
        name = next(
            (
                name
                for name in names
                if name in by_name and not is_taken(by_name[name], found.values())
            ),
            None,
        )

        if name is not None:
            found[wanted] = by_name[name]

    return found if all(column in found for column in item.columns) else {}


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
        return any(_is_good(values, slug, column_map) for values in sample)

    if slug == "text":
        # Rows that are turns one by one have a text too, and to learn them alone would make no
        # sense.
        return not any(_is_turn(values) for values in sample) and not _answers_beside(
            column_map, sample
        )

    return True


def _is_turn(values: dict[str, Any]) -> bool:
    return any(
        str(values[key]).strip().lower() in ROLES
        for key in ROLE_KEYS
        if isinstance(values.get(key), str)
    )


def _answers_beside(column_map: dict[str, str], sample: Sequence[dict[str, Any]]) -> bool:
    columns = list(dict.fromkeys(name for values in sample for name in values))
    found = _answers_as_text(columns, sample)
    return found is not None and found[1]["completion"] == column_map["text"]


def _is_rated(column_map: dict[str, str], sample: Sequence[dict[str, Any]]) -> bool:
    """Whether these are conversations with a rating, which would be learned as good ones throughout
    if it were passed over: text_turn by the column's name, or by values that can mean nothing else."""
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


def nearest_formats(columns: Sequence[str], count: int = 2) -> list[Format]:
    """The formats whose columns look most like these, for a message about a file that fits none."""
    names = [str(column).lower() for column in columns]

    def likeness(item: Format) -> float:
        best = [
            max(
                (difflib.SequenceMatcher(None, wanted, name[:40]).ratio() for name in names[:100]),
                default=0.0,
            )
            for wanted in item.columns
        ]

        return sum(best) / len(best)

    near = sorted(FORMATS.values(), key=likeness, reverse=True)
    if likeness(near[0]) < SOME_LIKENESS:
        # Names of another language, or none at all: what most people have.
        near = [FORMATS["question-answer"], FORMATS["messages"]]

    return near[:count]
