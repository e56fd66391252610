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
FIELD_OF_TURN = re.compile(r"(?P<column>[^\[]+)\[(?P<turn>\d+)\](?:\.(?P<field>.+))?")


@dataclass(frozen=True)
class BadTurn:
    """problem: why nothing can be learned from the row, on the turn that is wrong."""

    role: str
    content: str
    problem: str = ""


def bad_turns(dataset: Dataset, row: FoundRow, kind: str = "") -> list[BadTurn]:
    """The turns of a bad row; [] for a good row, and where no turns can be made out.

    kind: that of the row's finding, which says where to look for the turn that is wrong."""
    problem = row.seen.problem
    if problem is None or row.values is None:
        return []

    turns = _turns_of(dataset, row.values)
    if turns is None:
        return []

    roles = [role_of(turn) for turn in turns]
    named = TURN_OF_FIELD.search(problem["field"])
    wrong = int(named.group(1)) - 1 if named else _wrong_turn(roles, kind)

    shown = []
    for index, (role, turn) in enumerate(zip(roles, turns, strict=True)):
        reason = problem["reason"] if index == wrong else ""
        shown.append(BadTurn(role or "somebody", _content(turn), reason))

    return shown


def field_words(field: str) -> str:
    """Where in a row a problem is, for people: "turn 2 of messages" for messages[2].content.

    Turns count from 1, in the field and in the words."""
    found = FIELD_OF_TURN.fullmatch(field)
    if found is None:
        return field

    place = f"turn {found['turn']} of {found['column']}"
    if found["field"] in (None, *CONTENT_KEYS):
        return place

    return f"{found['field']} in {place}"


def _wrong_turn(roles: list[str], kind: str) -> int:
    """Index of the turn that a finding of this kind is about, where the problem itself does not say;
    otherwise the last."""
    last = len(roles) - 1
    spoken = [(index, role) for index, role in enumerate(roles) if role != "system"]

    if kind == "two_turns":
        for (_, before), (index, role) in itertools.pairwise(spoken):
            if role == before:
                return index

    if kind == "system_later":
        for index, role in enumerate(roles):
            if index and role == "system":
                return index

    if kind == "begins_with_assistant" and spoken:
        index, _ = spoken[0]
        return index

    return last


def _turns_of(dataset: Dataset, values: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The turns in the column that holds the conversation, None where there are none."""
    columns = columns_read(dataset.format, dataset.column_map)
    column = columns.get("messages") or columns.get("conversations")
    if not column:
        return None

    turns = value_at(values, column)
    if isinstance(turns, str):
        try:
            turns, _ = parsed(turns, column, "")
        except RowProblem:
            return None

    if not isinstance(turns, list) or not turns:
        return None
    if not all(isinstance(turn, dict) for turn in turns):
        return None

    shown, _ = shorten(turns)
    return list(shown)


def _content(turn: dict[str, Any]) -> str:
    for key in CONTENT_KEYS:
        value = turn.get(key)
        if value is not None:
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return ""
