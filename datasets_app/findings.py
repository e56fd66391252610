"""What the doctor found, as the page and the API show it: how much it matters, its rows, its
repair."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from core.errors import UserError
from datasets_app.bad_rows import BadTurn, bad_turns, field_words
from datasets_app.models import Dataset, DatasetProblem
from datasets_app.preview import PreviewRow, row_seen
from datasets_app.repairing import repairs_of, safe_repairs_of
from datasets_app.row_finding import FoundRow, rows_on_lines
from engine.doctor.finding_kinds import (
    COSTS,
    EXPLANATIONS,
    NOTE,
    REPAIRABLE,
    SEVERITY_HELP,
    SEVERITY_WORDS,
    STOPS,
    severity_of,
)
from engine.doctor.repair_kinds import Repair
from engine.rows.lines import Row

SEVERITY_ICONS = {
    STOPS: ("alert-circle", "bad"),
    COSTS: ("alert-triangle", "warn"),
    NOTE: ("info-circle", "faint"),
}
# Bad rows are grouped by their reason; beyond so many reasons the others stand together.
REASONS_SHOWN = 12
OTHER_REASONS = "Other rows that cannot be read"
# Reasons that many files have, in words for a heading: (title, explanation).
REASON_TITLES = {
    "Is blank; a text is needed.": (
        "Empty text",
        "A turn or a column has nothing in it that can be seen.",
    ),
    "Is null; a text is needed.": (
        "Missing text",
        "A turn or a column is null where a text is needed.",
    ),
    "Has no turns.": ("No turns", "The conversation is an empty list."),
}
NOT_JSON = "Not valid JSON"
DUPLICATE = "duplicate"
# Numbers and quoted values in a reason differ from row to row.
VARIABLE = re.compile(r"“[^”]*”|'[^']*'|\"[^\"]*\"|\d[\d,.]*")


@dataclass(frozen=True)
class FindingView:
    """A finding as the dataset's page shows it.

    lines: numbers of the first rows that it is about. repairs: those that mend it. is_safe: whether
    one of them is part of "all safe repairs".
    """

    key: str
    kind: str
    title: str
    explanation: str
    severity: str
    count: int
    lines: list[int] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    is_safe: bool = False

    @property
    def severity_word(self) -> str:
        return SEVERITY_WORDS[self.severity]

    @property
    def icon(self) -> str:
        icon, _ = SEVERITY_ICONS[self.severity]
        return icon

    @property
    def tint(self) -> str:
        _, tint = SEVERITY_ICONS[self.severity]
        return tint


@dataclass(frozen=True)
class FindingRow:
    """One row of a finding. number: which of the finding's rows, from 1. after: the row as a repair
    makes it, None where the repair leaves it out or is none; outcome says which: "" (no repair),
    changed, left_out or same."""

    number: int
    row: FoundRow
    bad_turns: list[BadTurn]
    outcome: str = ""
    after: PreviewRow | None = None


def findings_of(dataset: Dataset) -> list[FindingView]:
    """All findings about what is wrong, the most serious first."""
    repairs = repairs_of(dataset)
    safe_slugs = {repair.slug for repair in safe_repairs_of(dataset)}
    views = _bad_row_views(dataset, repairs)

    for finding in dataset.faults:
        kind = finding["kind"]
        title = finding["title"]
        if kind in REPAIRABLE:
            title = title.removeprefix("Bad rows: ").capitalize()

        mending = [repair for repair in repairs if kind in repair.mends]
        views.append(
            FindingView(
                key=kind,
                kind=kind,
                title=title,
                explanation=EXPLANATIONS.get(kind, ""),
                severity=severity_of(kind),
                count=finding["count"],
                lines=finding.get("lines") or _example_lines(finding),
                examples=finding["examples"],
                repairs=mending,
                is_safe=any(repair.slug in safe_slugs for repair in mending),
            )
        )

    order = list(SEVERITY_WORDS)
    return sorted(views, key=lambda view: (order.index(view.severity), -view.count, view.title))


def _example_lines(finding: dict[str, Any]) -> list[int]:
    """The rows of a finding from before all lines were kept."""
    return [example["line"] for example in finding["examples"] if example["line"]]


def _bad_row_views(dataset: Dataset, repairs: list[Repair]) -> list[FindingView]:
    """Bad rows that belong to no finding of the doctor, by the reason why nothing can be learned
    from them."""
    leaving_out = [repair for repair in repairs if "problems" in repair.mends]
    groups: dict[str, list[DatasetProblem]] = {}

    for problem in dataset.problems.filter(kind="").order_by("line"):
        pattern = _reason_pattern(problem.reason)
        groups.setdefault(pattern, []).append(problem)

    ranked = sorted(groups.values(), key=len, reverse=True)
    views = []
    for group in ranked[:REASONS_SHOWN]:
        title = group[0].reason.rstrip(".")
        view = _bad_rows_view(group, title, leaving_out)
        views.append(view)

    others: list[DatasetProblem] = []
    for group in ranked[REASONS_SHOWN:]:
        others += group

    if others:
        others.sort(key=lambda problem: problem.line)
        view = _bad_rows_view(others, OTHER_REASONS, leaving_out)
        views.append(view)

    return views


def _reason_pattern(reason: str) -> str:
    """The same for reasons that say the same about different rows."""
    if reason.startswith(NOT_JSON):
        return NOT_JSON

    return VARIABLE.sub("…", reason)


def _bad_rows_view(
    problems: list[DatasetProblem], title: str, repairs: list[Repair]
) -> FindingView:
    first = problems[0]
    explanation = "The line cannot be read as a row."
    if first.field:
        explanation = f"First in {field_words(first.field)}."

    if title == OTHER_REASONS:
        explanation = "Each for a reason of its own."
    if title.startswith(NOT_JSON):
        title = NOT_JSON
        explanation = "Look at the quotes, commas and brackets of the line."

    heading, explanation = REASON_TITLES.get(first.reason, (title, explanation))
    return FindingView(
        key=f"bad-{zlib.crc32(title.encode()):08x}",
        kind="problems",
        title=heading,
        explanation=explanation,
        severity=STOPS,
        count=len(problems),
        lines=[problem.line for problem in problems],
        repairs=repairs,
    )


def severities(findings: Iterable[FindingView]) -> list[dict[str, Any]]:
    """{"severity", "word", "help", "count"} of each severity that occurs."""
    counts = Counter(finding.severity for finding in findings)
    entries = []
    for severity, word in SEVERITY_WORDS.items():
        if counts[severity]:
            entries.append(
                {
                    "severity": severity,
                    "word": word,
                    "help": SEVERITY_HELP[severity],
                    "count": counts[severity],
                }
            )

    return entries


def finding_row(dataset: Dataset, finding: FindingView, number: int) -> FindingRow:
    """One of the finding's rows, and what the finding's repair would make of it.

    number: which of the rows, from 1; the nearest one where there is none of that number. Raises
    UserError where the file cannot be read or the row is no longer there.
    """
    number = max(1, min(number, len(finding.lines)))
    line = finding.lines[number - 1]
    repair = finding.repairs[0].slug if finding.repairs else ""
    row = rows_on_lines(dataset, [line], repair).get(line)
    if row is None:
        raise UserError(
            f"There is no row on line {line:,} any more. Check the dataset again.", status=409
        )

    outcome, after = _outcome(dataset, finding, row)
    turns = bad_turns(dataset, row, finding.kind)

    return FindingRow(number, row, turns, outcome, after)


def _outcome(
    dataset: Dataset, finding: FindingView, row: FoundRow
) -> tuple[str, PreviewRow | None]:
    """(outcome, the row after it) of the first repair, as FindingRow has them."""
    if not finding.repairs:
        return "", None

    if finding.kind == DUPLICATE or row.values is None:
        # A repair notices a duplicate only beside the other rows.
        return "left_out", None

    if row.mended is None:
        return "", None
    if not row.mended:
        return "left_out", None
    if row.mended == [row.values]:
        return "same", None

    repaired = Row(row.line, row.mended[0])
    new_format = finding.repairs[0].makes
    if new_format:
        return "changed", row_seen(dataset, repaired, format=new_format, column_map={})

    return "changed", row_seen(dataset, repaired)
