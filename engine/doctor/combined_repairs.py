"""New versions by several repairs at once, and by rows that somebody changed by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.doctor.finding_kinds import REPAIRABLE
from engine.doctor.repair_kinds import Repair, safe_repairs
from engine.doctor.row_repairs import Row, RowRepairer

DUPLICATES = "drop_duplicates"


class SafeRepairer:
    """All repairs of engine.doctor.repair_kinds.SAFE on one row after the other.

    A good row never becomes worse: a repair that would spoil it is skipped. A bad row is
    changed only if it is good afterwards. `steps` counts the rows that each repair changed.
    """

    def __init__(self, format: str, column_map: dict[str, str]) -> None:
        self.repairs = safe_repairs(format)
        self.repairers = {}
        for repair in self.repairs:
            self.repairers[repair.slug] = RowRepairer(repair.slug, format, column_map)

        self.reader = next(iter(self.repairers.values()))
        self.steps: Counter[str] = Counter()

    def rows(self, values: Row) -> list[Row]:
        row, applied = self._repaired(values)

        duplicates = self.repairers.get(DUPLICATES)
        if duplicates is not None and duplicates.is_again(row):
            self.steps[DUPLICATES] += 1
            return []

        self.steps.update(applied)
        return [row]

    def _repaired(self, values: Row) -> tuple[Row, list[str]]:
        """(the row, slugs of the repairs that changed it)"""
        row = values
        applied = []
        is_good = self.reader.can_read(row)

        for repair in self.repairs:
            if repair.slug == DUPLICATES:
                continue
            if is_good and _is_for_bad_rows(repair):
                continue

            changed = self.repairers[repair.slug].changed(row)
            if changed is None or changed == row:
                continue

            is_good_now = self.reader.can_read(changed)
            if is_good and not is_good_now:
                continue

            row = changed
            is_good = is_good_now
            applied.append(repair.slug)

        return (row, applied) if is_good else (values, [])


def _is_for_bad_rows(repair: Repair) -> bool:
    return any(kind in REPAIRABLE for kind in repair.mends)


@dataclass
class RowChanges:
    """Rows that somebody changed by hand.

    edited: {line: the row's new values}.
    set_aside: lines that are left out.
    put_back: rows that are added at the end.
    """

    edited: dict[int, Row] = field(default_factory=dict)
    set_aside: set[int] = field(default_factory=set)
    put_back: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> RowChanges:
        data: dict[str, Any] = json.loads(path.read_text())
        edited = {int(line): values for line, values in data["edited"].items()}
        return cls(edited, set(data["set_aside"]), data["put_back"])

    def write(self, path: Path) -> None:
        data = {
            "edited": {str(line): values for line, values in self.edited.items()},
            "set_aside": sorted(self.set_aside),
            "put_back": self.put_back,
        }
        path.write_text(json.dumps(data))

    def apply(
        self, rows: Iterable[tuple[int, Row | None]]
    ) -> Iterator[tuple[int, Row | None, Row | None]]:
        """(line, the row before, the row after) of every row; None for one that is not there."""
        line = 0
        for line, values in rows:
            if line in self.set_aside:
                yield line, values, None
            else:
                yield line, values, self.edited.get(line, values)

        for added, values in enumerate(self.put_back, line + 1):
            yield added, None, values
