"""Advice on files whose columns fit no format, such as those that people have for other tools. No
training library."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from engine.rows.format_detection import nearest_formats

SHOWN_COLUMNS = 20

# (columns by which it is known, what to do)
KNOWN_COLUMNS = (
    (
        {"segments"},
        "These rows are text in segments (axolotl's input_output). Write each as a list of turns "
        "named messages; an answer that is not to be learned gets “weight”: 0.",
    ),
    (
        {"completions", "labels"},
        "These rows rate an answer step by step, which no method here learns from. Rate whole "
        "answers instead: prompt, completion and label.",
    ),
    (
        {"message_id", "parent_id"},
        "Each row is a single message of a conversation that branches. Put all turns of a "
        "conversation into one row, as a list named messages.",
    ),
    (
        {"role", "content"},
        "Each row is a single turn, so nothing says which belong together. Put all turns of a "
        "conversation into one row, as a list named messages.",
    ),
    (
        {"from", "value"},
        "Each row is a single turn, so nothing says which belong together. Put all turns of a "
        "conversation into one row, as a list named conversations.",
    ),
    (
        {"mapping", "create_time"},
        "This is an export of ChatGPT's conversations, which branch. Write each as a list of turns "
        "named messages.",
    ),
    (
        {"input_ids"},
        "These rows are token ids of one model. Upload the texts that they were made from.",
    ),
)


COLUMNS_OF_JSON = (
    "This JSON holds columns and not rows, as pandas writes it by default. Write it by rows: "
    'to_json(orient="records"), or one object for each example.'
)


def holds_columns(row: dict[str, Any]) -> bool:
    """Whether the only row of a file is a table, written column by column."""
    if isinstance(row.get("columns"), list) and isinstance(row.get("data"), list):
        return True

    values = list(row.values())
    # As pandas numbers its rows.
    if values and all(isinstance(value, dict) and "0" in value for value in values):
        return True

    if len(values) < 2 or not all(_is_texts(value) for value in values):
        return False

    lengths = {len(value) for value in values}
    return len(lengths) == 1 and lengths.pop() > 1


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def no_format(columns: Collection[str]) -> str:
    """Why rows with these columns cannot be used, and what can be done."""
    names = {str(column).strip().lower() for column in columns}
    for needed, sentence in KNOWN_COLUMNS:
        if needed <= names:
            return sentence

    near = " or ".join(
        f"{item.title} ({', '.join(item.columns)})" for item in nearest_formats(list(columns))
    )
    listed = ", ".join(list(columns)[:SHOWN_COLUMNS])
    return (
        f"The columns fit no known format: {listed}. Nearest are {near}. Say which column is "
        "which, or rename them."
    )
