"""Rows that somebody edits, sets aside or puts back. The file itself never changes: what is changed
waits, and one new version is made of all that waits (repairing.dataset_repair)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from core.errors import UserError
from core.ownership import owner_check
from datasets_app.models import Dataset, RowChange
from datasets_app.row_finding import FoundRow, rows_on_lines
from engine.rows.examples import to_example
from engine.rows.formats import FORMATS
from engine.rows.values import RowProblem

# Changes that may wait at once, and how long a row may be that is edited here.
WAITING_LIMIT = 1000
ROW_CHARACTERS = 200_000
LARGEST_LINE = 2**62


def row_get(dataset: Dataset, line: int) -> FoundRow:
    """The row that begins on that line. Raises UserError (404) where there is none."""
    row = None
    if 0 < line <= LARGEST_LINE:
        row = rows_on_lines(dataset, [line]).get(line)
    if row is None:
        raise _no_row("line", line)

    return row


def _no_row(field: str, line: int) -> UserError:
    message = f"The dataset has no row on line {line:,}."
    return UserError({field: [message]}, code="not_found", status=404)


def changes_waiting(dataset: Dataset) -> list[RowChange]:
    return list(dataset.row_changes.filter(version=None).order_by("line", "pk"))


def row_edit(*, dataset: Dataset, by: User, line: int, values: dict[str, Any]) -> RowChange:
    """Keep the row as it is to be in the next version.

    Raises UserError by field where nothing could be learned from the row: the field is "values", or
    "values.COLUMN" where one column is at fault.
    """
    changes_check(dataset, by, 1)
    row_check(dataset, values)
    row_get(dataset, line)

    return _change_put(dataset, by, line, RowChange.Action.EDIT, values)


def row_check(dataset: Dataset, values: dict[str, Any]) -> None:
    """Raises UserError where the check would call this row bad."""
    try:
        length = len(json.dumps(values, ensure_ascii=False, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise UserError({"values": ["The row is not valid JSON."]}) from error

    if length > ROW_CHARACTERS:
        message = f"The row has {length:,} characters; at most {ROW_CHARACTERS:,} can be edited."
        raise UserError({"values": [message]})

    try:
        to_example(values, dataset.format, dataset.column_map)
    except RowProblem as problem:
        name = f"values.{problem.field}" if problem.field else "values"
        raise UserError({name: [problem.reason]}) from problem


def rows_set_aside(*, dataset: Dataset, by: User, lines: Iterable[int]) -> list[RowChange]:
    """Leave these rows out of the next version. They stay on record and can be put back."""
    wanted = sorted(set(lines))
    changes_check(dataset, by, len(wanted))
    there = rows_on_lines(dataset, [line for line in wanted if 0 < line <= LARGEST_LINE])

    for line in wanted:
        if line not in there:
            raise _no_row("lines", line)

    with transaction.atomic():
        return [_change_put(dataset, by, line, RowChange.Action.SET_ASIDE, None) for line in wanted]


def row_put_back(*, dataset: Dataset, by: User, change: int) -> RowChange:
    """Have a row that was set aside in this version, or in one that it was made of, in the next
    one."""
    changes_check(dataset, by, 1)
    aside = next((item for item in rows_aside(dataset, by) if item.pk == change), None)
    if aside is None:
        raise UserError(
            {"change": ["This row is not among those that were set aside."]},
            code="not_found",
            status=404,
        )

    row = row_get(aside.dataset, aside.line)
    if row.values is None:
        raise UserError({"change": ["The row cannot be read, so it cannot be put back."]})

    return RowChange.objects.create(
        dataset=dataset,
        line=aside.line,
        action=RowChange.Action.PUT_BACK,
        values=row.values,
        restores=aside,
        author=by,
    )


def rows_aside(dataset: Dataset, reader: User) -> list[RowChange]:
    """Rows that were set aside on the way to this version and not put back since, the last first.

    Rows of versions that `reader` may not see are left out: a version can be handed over without
    those before it."""
    aside = RowChange.Action.SET_ASIDE
    back = RowChange.Action.PUT_BACK
    family = Dataset.objects.visible_to(reader).families([dataset.family])
    visible = {dataset.pk, *family.values_list("pk", flat=True)}
    waiting = dataset.row_changes.filter(version=None, action=back)
    put_back: set[int | None] = set(waiting.values_list("restores", flat=True))

    rows: list[RowChange] = []
    version: Dataset | None = dataset
    while version is not None and version.parent_id is not None:
        changes = version.applied_changes.select_related("dataset")
        for change in changes.order_by("line"):
            if change.action == back and change.restores_id is not None:
                put_back.add(change.restores_id)
            elif change.action == aside and change.pk not in put_back:
                rows.append(change)

        version = version.parent

    return [change for change in rows if change.dataset_id in visible]


def row_change_discard(*, dataset: Dataset, by: User, change: int) -> None:
    """Take back one change that waits."""
    owner_check(dataset, by)
    gone, _ = dataset.row_changes.filter(version=None, pk=change).delete()
    if not gone:
        raise UserError(
            {"change": ["There is no such change that waits."]}, code="not_found", status=404
        )


def row_changes_discard(*, dataset: Dataset, by: User) -> int:
    """Take back all changes that wait; returns how many there were."""
    owner_check(dataset, by)
    waiting = dataset.row_changes.filter(version=None)
    count = waiting.count()
    waiting.delete()

    return count


def changes_check(dataset: Dataset, by: User, more: int) -> None:
    """Raises PermissionDenied or UserError where `by` may not change that many more rows."""
    owner_check(dataset, by)

    if dataset.status == Dataset.Status.CHECKING:
        raise UserError(
            "The rows are still being checked. Try again in a moment.", code="wrong_state"
        )

    if dataset.format not in FORMATS:
        raise UserError(
            "Say first which column is which; rows can be changed after that.", code="wrong_state"
        )

    if dataset.row_changes.filter(version=None).count() + more > WAITING_LIMIT:
        raise UserError(
            f"At most {WAITING_LIMIT:,} changed rows can wait. Make a version with those that do."
        )


def _change_put(
    dataset: Dataset, by: User, line: int, action: RowChange.Action, values: dict[str, Any] | None
) -> RowChange:
    """The change in place of an earlier one of the same row that waits."""
    with transaction.atomic():
        earlier = dataset.row_changes.filter(version=None, line=line)
        earlier.exclude(action=RowChange.Action.PUT_BACK).delete()
        return RowChange.objects.create(
            dataset=dataset, line=line, action=action, values=values, author=by
        )
