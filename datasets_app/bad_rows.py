"""A conversation that cannot be learned from, turn by turn, with the turn that is wrong."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

from datasets_app.models import Dataset
from datasets_app.preview import shorten
from datasets_app.row_finding import FoundRow
from engine.doctor.row_repairs import role_of
from engine.rows.chat_turns import CONTENT_KEYS
from engine.rows.column_map import columns_read
from engine.rows.values import RowProblem, parsed, value_at

TURN_OF_FIELD = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True)
class BadTurn:
    """problem: why nothing can be learned from the row, on the turn that is wrong."""

    role: str
    content: str
    problem: str = ""


def bad_turns(dataset: Dataset, row: FoundRow, kind: str = "") -> list[BadTurn]:
    """The turns of a bad row, as far as they can be told; [] for a good row and any other row.

    kind: of the finding that the row belongs to, which says where to look for the turn that is
    wrong."""
    problem = row.seen.problem
    if problem is None or row.values is None:
        return []

    turns = _turns_of(dataset, row.values)
    if turns is None:
        return []

    roles = [role_of(turn) for turn in turns]
    named = TURN_OF_FIELD.search(problem["field"])
    wrong = int(named.group(1)) - 1 if named else _wrong_turn(roles, kind)

    return [
        BadTurn(role or "somebody", _content(turn), problem["reason"] if number == wrong else "")
        for number, (role, turn) in enumerate(zip(roles, turns, strict=True))
    ]


def _wrong_turn(roles: list[str], kind: str) -> int:
    """Which turn a finding of this kind is about, where the problem itself does not say; else the
    last."""
    spoken = [(number, role) for number, role in enumerate(roles) if role != "system"]

    if kind == "two_turns":
        pairs = itertools.pairwise(spoken)
        return next(
            (number for (_, before), (number, role) in pairs if role == before), len(roles) - 1
        )

    if kind == "system_later":
        return next(
            (number for number, role in enumerate(roles) if number and role == "system"),
            len(roles) - 1,
        )

    if kind == "begins_with_assistant" and spoken:
        return spoken[0][0]

    return len(roles) - 1


def _turns_of(dataset: Dataset, values: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The list of turns in the column that holds the conversation, None where there is no such
    list."""
    columns = columns_read(dataset.format, dataset.column_map)
    column = next(
        (columns[name] for name in ("messages", "conversations") if columns.get(name)), ""
    )
    if not column:
        return None

    turns = value_at(values, column)
    if isinstance(turns, str):
        try:
            turns, _ = parsed(turns, column, "")
        except RowProblem:
            return None

    if (
        not isinstance(turns, list)
        or not turns
        or not all(isinstance(turn, dict) for turn in turns)
    ):
        return None

    shown, _ = shorten(turns)
    return list(shown)


def _content(turn: dict[str, Any]) -> str:
    value = next((turn[key] for key in CONTENT_KEYS if turn.get(key) is not None), "")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
