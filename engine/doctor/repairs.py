"""Repairs of a dataset: each reads rows and writes new ones, and counts what it did.

    python -m engine.doctor.repairs --data FILE --file-type T --format F --column-map JSON --repair
                             SLUG --out FILE [--model DIR --max-tokens N] [--list NAME] [--changes
                             FILE]

writes JSON lines and reports by JSON lines on its output: {"rows": read so far}, last {"done":
{...}} or {"error": text}. Rows keep all their columns, apart from repairs that make another format
of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.doctor.combined_repairs import RowChanges, SafeRepairer
from engine.doctor.examine import concealed
from engine.doctor.repair_kinds import (
    APPLY_CHANGES,
    EVALUATION_PART,
    EVERY,
    MEND_SAFE,
    REPAIRS,
    TRAIN_PART,
)
from engine.doctor.row_repairs import Fits, Row, RowRepairer
from engine.rows.command_line import data_arguments_add
from engine.rows.examples import Example
from engine.rows.read import FileProblem, read_rows

EXAMPLES_KEPT = 5
SHOWN_CHARACTERS = 300
REPORT_EVERY_SECONDS = 0.5
NOTHING_LEFT = "No row is left after this repair."


def _no_counts() -> dict[str, int]:
    return {"read": 0, "written": 0, "changed": 0, "left_out": 0}


@dataclass
class RepairReport:
    """Counts and examples of what a repair did.

    counts: rows read, written, changed and left out.
    examples: [{"line", "before", "after"}] of the first.
    steps: {repair: rows} of a version that is made of several repairs.
    """

    counts: dict[str, int] = field(default_factory=_no_counts)
    examples: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)

    def example_add(self, line: int, before: Any, after: Any) -> None:
        if len(self.examples) < EXAMPLES_KEPT:
            example = {"line": line, "before": _shown(before), "after": _shown(after)}
            self.examples.append(example)


def _shown(values: Any) -> str:
    text = "" if values is None else json.dumps(values, ensure_ascii=False, default=str)
    return concealed(text)[:SHOWN_CHARACTERS]


def repaired(
    rows: Iterable[tuple[int, Row | None]],
    slug: str,
    format: str,
    column_map: dict[str, str],
    report: RepairReport,
    fits: Fits | None = None,
) -> Iterator[Row]:
    """The rows of the new file. `rows`: (line, values), None for a line that is no row. Fills
    `report`."""
    repairer: RowRepairer | SafeRepairer
    if slug == MEND_SAFE:
        repairer = SafeRepairer(format, column_map)
    else:
        makes = REPAIRS[slug].makes if slug in REPAIRS else ""
        repairer = RowRepairer(slug, format, column_map, fits, makes)

    counts = report.counts
    for line, values in rows:
        counts["read"] += 1
        is_elsewhere = _is_of_other_part(slug, counts["read"])
        new_rows = []
        if values is not None and not is_elsewhere:
            new_rows = repairer.rows(values)

        if not new_rows:
            counts["left_out"] += 1
            if not is_elsewhere:
                report.example_add(line, values, None)
        elif new_rows != [values]:
            counts["changed"] += 1
            report.example_add(line, values, new_rows[0])

        counts["written"] += len(new_rows)
        yield from new_rows

    if isinstance(repairer, SafeRepairer):
        report.steps = dict(repairer.steps)


def _is_of_other_part(slug: str, number: int) -> bool:
    """Whether the `number`th row goes into the other part of a split."""
    is_measured = number % EVERY == 0
    if slug == TRAIN_PART:
        return is_measured

    return slug == EVALUATION_PART and not is_measured


def changes_applied(
    rows: Iterable[tuple[int, Row | None]], changes: RowChanges, report: RepairReport
) -> Iterator[Row]:
    """The rows of a version in which somebody edited rows, set some aside or put some back."""
    for line, before, after in changes.apply(rows):
        if before is not None or line in changes.set_aside:
            report.counts["read"] += 1

        if after is None:
            report.counts["left_out"] += 1
            report.example_add(line, before, None)
            continue

        if after != before:
            report.counts["changed"] += 1
            report.example_add(line, before, after)

        report.counts["written"] += 1
        yield after


def limit_of(folder: Path, max_tokens: int) -> Fits:
    """Whether all that is trained on for a row has at most `max_tokens` tokens under that model's
    chat template."""
    from engine.chat.lengths import variants
    from engine.chat.render import Renderer, tokenizer_load
    from engine.chat.template import TemplateProblem

    renderer = Renderer(tokenizer_load(folder), warn=lambda code, message: None)

    def fits(example: Example) -> bool:
        try:
            for variant in variants(example):
                if len(renderer.tokens(variant).ids) > max_tokens:
                    return False
        except TemplateProblem:
            # Not a matter of length: what this model cannot write, another one can.
            return True

        return True

    return fits


def _report(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _rows(path: Path, file_type: str, part: str | None) -> Iterator[tuple[int, Row | None]]:
    """All rows, or those of one list of the file."""
    last_report = time.monotonic()
    for number, row in enumerate(read_rows(path, file_type), 1):
        now = time.monotonic()
        if now - last_report > REPORT_EVERY_SECONDS:
            last_report = now
            _report(rows=number)

        if part is None or row.part == part:
            yield row.line, row.values


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    from engine.messages.failures import explain

    report = RepairReport()
    digest = hashlib.sha256()
    size = 0

    try:
        fits = limit_of(options.model, options.max_tokens) if options.model else None
        rows = _rows(options.data, options.file_type, options.list)

        if options.repair == APPLY_CHANGES:
            new_rows = changes_applied(rows, RowChanges.read(options.changes), report)
        else:
            new_rows = repaired(
                rows, options.repair, options.format, options.column_map, report, fits
            )

        with options.out.open("wb") as stream:
            for row in new_rows:
                line = _json_line(row)
                digest.update(line)
                size += stream.write(line)
    except Exception as error:
        _report(error=str(error) if isinstance(error, FileProblem) else explain(error).message)
        return 1

    if not size:
        _report(error=NOTHING_LEFT)
        return 1

    _report(done=asdict(report) | {"size_bytes": size, "sha256": digest.hexdigest()})
    return 0


def _json_line(row: Row) -> bytes:
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace") + b"\n"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engine.doctor.repairs", description="Write a repaired copy of a dataset."
    )
    data_arguments_add(parser)
    parser.add_argument("--repair", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--max-tokens", type=int, default=0)
    parser.add_argument(
        "--changes",
        type=Path,
        help="rows that somebody changed, see engine.doctor.combined_repairs",
    )
    parser.add_argument(
        "--list", help="the name of the list to read, of a file that is an object of lists"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
