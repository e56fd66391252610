"""Repairs of a dataset: each reads rows and writes new ones, and counts what it did.

    python -m engine.doctor.repairs --data FILE --file-type T --format F --column-map JSON --repair SLUG
                             --out FILE [--model DIR --max-tokens N] [--list NAME] [--changes FILE]

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
from engine.rows.examples import Example
from engine.rows.read import FileProblem, read_rows

EXAMPLES_KEPT = 5
SHOWN_CHARACTERS = 300
NEWS_EVERY_SECONDS = 0.5
NOTHING_LEFT = "No row is left after this repair."


@dataclass
class RepairReport:
    """`counts`: rows read, written, changed and left out; `examples`: [{"line", "before", "after"}]
    of the first; `steps`: {repair: rows} of a version that is made of several repairs."""

    counts: dict[str, int] = field(
        default_factory=lambda: {"read": 0, "written": 0, "changed": 0, "left_out": 0}
    )
    examples: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)

    def note(self, line: int, before: Any, after: Any) -> None:
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append({"line": line, "before": _shown(before), "after": _shown(after)})


def _shown(values: Any) -> str:
    text = "" if values is None else json.dumps(values, ensure_ascii=False, default=str)
    return concealed(text)[:SHOWN_CHARACTERS]


def repaired(
    rows: Iterable[tuple[int, Row | None]],
    slug: str,
    format: str,
    column_map: dict[str, str],
    done: RepairReport,
    fits: Fits | None = None,
) -> Iterator[Row]:
    """The rows of the new file. `rows`: (line, values), None for a line that is no row. Fills
    `done`."""
    makes = REPAIRS[slug].makes if slug in REPAIRS else ""
    repairer: RowRepairer | SafeRepairer
    repairer = (
        SafeRepairer(format, column_map)
        if slug == MEND_SAFE
        else RowRepairer(slug, format, column_map, fits, makes)
    )

    for line, values in rows:
        done.counts["read"] += 1
        measured = done.counts["read"] % EVERY == 0
        elsewhere = (slug == TRAIN_PART and measured) or (slug == EVALUATION_PART and not measured)
        made = repairer.rows(values) if values is not None and not elsewhere else []
        if not made:
            done.counts["left_out"] += 1
            if not elsewhere:
                done.note(line, values, None)
        elif made != [values]:
            done.counts["changed"] += 1
            done.note(line, values, made[0])

        done.counts["written"] += len(made)
        yield from made

    if isinstance(repairer, SafeRepairer):
        done.steps = dict(repairer.steps)


def changes_applied(
    rows: Iterable[tuple[int, Row | None]], changes: RowChanges, done: RepairReport
) -> Iterator[Row]:
    """The rows of a version in which somebody edited rows, set some aside or put some back."""
    for line, before, after in changes.apply(rows):
        if before is not None or line in changes.set_aside:
            done.counts["read"] += 1

        if after is None:
            done.counts["left_out"] += 1
            done.note(line, before, None)
            continue

        if after != before:
            done.counts["changed"] += 1
            done.note(line, before, after)

        done.counts["written"] += 1
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
            return all(
                len(renderer.tokens(variant).ids) <= max_tokens for variant in variants(example)
            )
        except TemplateProblem:
            # Not a matter of length: what this model cannot write, another one can.
            return True

    return fits


def _say(**news: Any) -> None:
    print(json.dumps(news), flush=True)


def _rows(path: Path, file_type: str, part: str | None) -> Iterator[tuple[int, Row | None]]:
    """All rows, or those of one list of the file."""
    told = time.monotonic()
    for number, row in enumerate(read_rows(path, file_type), 1):
        if time.monotonic() - told > NEWS_EVERY_SECONDS:
            told = time.monotonic()
            _say(rows=number)

        if part is None or row.part == part:
            yield row.line, row.values


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.doctor.repairs", description="Write a repaired copy of a dataset."
    )
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)

    for name in ("file-type", "format", "repair"):
        # A file whose format nobody knows can still be taken apart.
        parser.add_argument(f"--{name}", required=True)

    parser.add_argument("--column-map", type=json.loads, default={})
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
    given = parser.parse_args(arguments)
    from engine.messages.failures import explain

    done, digest, size = RepairReport(), hashlib.sha256(), 0

    try:
        fits = limit_of(given.model, given.max_tokens) if given.model else None
        rows = _rows(given.data, given.file_type, given.list)

        if given.repair == APPLY_CHANGES:
            new_rows = changes_applied(rows, RowChanges.read(given.changes), done)
        else:
            new_rows = repaired(rows, given.repair, given.format, given.column_map, done, fits)

        with given.out.open("wb") as stream:
            for row in new_rows:
                line = (
                    json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace")
                    + b"\n"
                )
                digest.update(line)
                size += stream.write(line)
    except Exception as error:
        _say(error=str(error) if isinstance(error, FileProblem) else explain(error).message)
        return 1

    if not size:
        _say(error=NOTHING_LEFT)
        return 1

    _say(done=asdict(done) | {"size_bytes": size, "sha256": digest.hexdigest()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
