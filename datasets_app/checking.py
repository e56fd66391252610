"""The check: read the whole file once, row by row, and say what is in it.

It may be killed at any row and begun again: nothing but progress is written before the end, and all
of that at once."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from core.text import clean_label, clean_text
from datasets_app.bad_rows import field_words
from datasets_app.importing import rows_fetch
from datasets_app.lengths import lengths_of, tokenizer_choose
from datasets_app.models import Dataset, DatasetProblem
from datasets_app.repairing import repair_apply
from engine.doctor.examine import Doctor
from engine.rows.bounds import MOST_COLUMNS, approximate_bytes
from engine.rows.examples import Example, RowProblem, to_example
from engine.rows.foreign import COLUMNS_OF_JSON, holds_columns, no_format
from engine.rows.format_detection import detect_format, nested_columns
from engine.rows.read import FilePosition, FileProblem, Row, read_rows
from engine.rows.values import MISSING, value_at
from jobs.progress import progress_report

if TYPE_CHECKING:
    from engine.vectorised.row_blocks import Block

# More than the background workers start it (jobs.services): the last resort.
ATTEMPTS = 6
SAMPLE_ROWS = 200
SAMPLE_BYTES = 16 << 20
PROBLEMS_KEPT = 1000
COLUMNS_KEPT = 200
LISTS_KEPT = 50
MARK_EVERY_ROWS = 1000
# Long rows need marks sooner, so that a page never reads far.
MARK_EVERY_BYTES = 4 << 20
PROGRESS_EVERY_SECONDS = 0.5
# Smaller files are read in the time that it takes to load what reads blocks.
BLOCKS_FROM_BYTES = 8 << 20
TYPE_NAMES = {
    str: "text",
    bool: "true or false",
    int: "number",
    float: "number",
    list: "list",
    dict: "object",
    type(None): "null",
    bytes: "bytes",
}
EMPTY = "The file has no rows. Upload a file with one example per row."
NOTHING_IN_ROWS = "Its rows are empty: none of them has a column. Write one example into each row."
BROKE_OFF = (
    "The check crashed several times on this file. The file may be damaged. Save it again, or split "
    "it into smaller ones."
)
OUT_OF_MEMORY = (
    "Reading this file takes more memory than there is. Split it into smaller rows or row groups."
)
GONE = "The file is gone from the server's disk. Upload it again."

logger = logging.getLogger("deepextension.datasets")


@dataclass
class Findings:
    """What a check has seen so far.

    columns: {column: names of its types}. nested: {column: {column.field: names of its types}} of
    the fields within columns of objects, as the first rows have them. lists: how many rows each
    list of a JSON file has that is an object of lists."""

    format: str
    column_map: dict[str, str]
    row_count: int = 0
    problem_count: int = 0
    problems: list[DatasetProblem] = field(default_factory=list)
    columns: dict[str, set[str]] = field(default_factory=dict)
    marks: list[FilePosition] = field(default_factory=list)
    doctor: Doctor = field(default_factory=Doctor)
    nested: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    lists: Counter[str] = field(default_factory=Counter)

    def add_columns(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name in self.columns or len(self.columns) < COLUMNS_KEPT:
                types = self.columns.setdefault(name, set())
                types.add(_type_name(value))

    def add_nested(self, sample: list[dict[str, Any]]) -> None:
        for column, fields in nested_columns(sample).items():
            self.nested[column] = {}
            for name in fields:
                values = [value_at(row, name) for row in sample]
                types = {_type_name(value) for value in values if value is not MISSING}
                self.nested[column][name] = types

    def columns_found(self) -> list[dict[str, str]]:
        """[{"name", "type"}] in file order, the fields within a column behind it."""
        types_of: dict[str, set[str]] = {}
        for name, types in self.columns.items():
            types_of[name] = types
            for field_name, field_types in self.nested.get(name, {}).items():
                types_of.setdefault(field_name, field_types)

        columns = []
        for name, types in types_of.items():
            label = clean_label(name, limit=200)
            columns.append({"name": label, "type": " or ".join(sorted(types))})

        return columns

    def add_columns_of(self, block: Block) -> bool:
        """As add_columns for each of the block's rows. False where a column is new, or is null for the
        first time: then the rows have to be added one by one."""
        for name, kind in block.kinds.items():
            types = self.columns.get(name, set())
            if "null" not in types and block.has_null(name):
                return False

            if kind is not type(None):
                if name not in self.columns:
                    return False

                types.add(TYPE_NAMES[kind])

        return True

    def add_problem(
        self, dataset: Dataset, line: int, field: str, value: str, reason: str, kind: str = ""
    ) -> None:
        self.problem_count += 1
        if len(self.problems) >= PROBLEMS_KEPT:
            return

        problem = DatasetProblem(
            dataset=dataset,
            line=line,
            field=clean_label(field, limit=200),
            value=clean_text(value)[:300],
            reason=clean_label(reason, limit=300),
            kind=kind,
        )
        self.problems.append(problem)


def _type_name(value: Any) -> str:
    return TYPE_NAMES.get(type(value), "other")


def dataset_check(
    dataset_id: int, before_reading: Callable[[Dataset], None] = lambda dataset: None
) -> None:
    """Check a dataset that waits for it; one that is gone or checked already is left alone.

    before_reading: called when its file is there, and this very process is about to read it.
    """
    waiting = Dataset.objects.filter(pk=dataset_id, status=Dataset.Status.CHECKING)
    if not waiting.update(check_attempts=F("check_attempts") + 1, checked_bytes=0):
        return

    dataset = waiting.get()
    findings = Findings(dataset.format, dataset.column_map)

    if dataset.check_attempts > ATTEMPTS:
        _conclude(dataset, findings, BROKE_OFF)
        return

    progress_report(dataset.phase)

    try:
        error = _make(dataset)
        if not error:
            dataset.refresh_from_db()
            before_reading(dataset)
            error = _read(dataset, findings)
    except FileProblem as problem:
        error = str(problem)
    except FileNotFoundError:
        error = GONE
    except MemoryError:
        error = OUT_OF_MEMORY

    _conclude(dataset, findings, error)


def _make(dataset: Dataset) -> str:
    """Fetch the file from the hub or make it by a repair, where it is not there yet. Returns why it
    cannot be, or nothing."""
    if dataset.sha256:
        return ""

    return rows_fetch(dataset) if dataset.hub else repair_apply(dataset)


def _read(dataset: Dataset, findings: Findings) -> str:
    """Fill `findings`; returns why the dataset cannot be used, or nothing."""
    sample = _sample(dataset)
    if len(sample) == 1 and holds_columns(sample[0]):
        return COLUMNS_OF_JSON

    findings.add_nested(sample)
    if not findings.format:
        _detect_format(findings, sample)

    reported_at = time.monotonic()
    findings.marks.append(FilePosition())
    for part in _parts(dataset, findings):
        end = _add_part(dataset, findings, part)
        if time.monotonic() - reported_at > PROGRESS_EVERY_SECONDS:
            reported_at = time.monotonic()
            checked = _checked_here(dataset)
            if not checked.update(checked_bytes=end, row_count=findings.row_count):
                # Deleted in the meantime: nobody waits for the result.
                return GONE

            progress_report(dataset.phase, end / max(1, dataset.size_bytes))

    findings.doctor.see_lists(findings.lists)
    return obstacle(findings)


def _detect_format(findings: Findings, sample: list[dict[str, Any]]) -> None:
    names: dict[str, None] = {}
    for values in sample:
        names |= dict.fromkeys(values)

    # Where every row has names of its own, the later ones say nothing about the format.
    columns = list(names)[:MOST_COLUMNS]
    for fields in findings.nested.values():
        columns += fields

    findings.format, findings.column_map = detect_format(columns, sample)


def _sample(dataset: Dataset) -> list[dict[str, Any]]:
    """The first rows, from which the format is detected."""
    sample: list[dict[str, Any]] = []
    sample_bytes = 0

    for row in read_rows(dataset.path, dataset.file_type):
        if row.values is not None:
            sample.append(row.values)
            sample_bytes += approximate_bytes(row.values)

        if len(sample) >= SAMPLE_ROWS or sample_bytes > SAMPLE_BYTES:
            break

    return sample


def _parts(dataset: Dataset, findings: Findings) -> Iterator[Block | Row]:
    """All rows in file order, in blocks of which the columns are as those before."""
    if dataset.file_type != "jsonl" or dataset.path.stat().st_size < BLOCKS_FROM_BYTES:
        yield from read_rows(dataset.path, dataset.file_type)
        return

    # Not above: it brings pyarrow, and most files are small.
    from engine.vectorised.row_blocks import read_blocks

    for part in read_blocks(dataset.path, findings.format, findings.column_map):
        if isinstance(part, Row) or findings.add_columns_of(part):
            yield part
        else:
            yield from part.rows()


def _add_part(dataset: Dataset, findings: Findings, part: Block | Row) -> int:
    """Returns how many bytes of the file have been read."""
    if isinstance(part, Row):
        return _add_row(dataset, findings, part)

    return _add_block(dataset, findings, part)


def _add_row(dataset: Dataset, findings: Findings, row: Row) -> int:
    findings.row_count += 1
    last = findings.marks[-1]
    rows_since = findings.row_count - last.rows
    is_far = row.end - last.offset > MARK_EVERY_BYTES and dataset.file_type != "parquet"
    if is_far or rows_since >= MARK_EVERY_ROWS:
        findings.marks.append(last.after(row, rows_since))

    if row.part:
        # Beyond so many lists the others are counted together.
        part = row.part if len(findings.lists) < LISTS_KEPT else ""
        findings.lists[part] += 1

    example = _judge(dataset, findings, row)
    if example is not None:
        findings.doctor.see(row.line, example)

    return row.end


def _add_block(dataset: Dataset, findings: Findings, block: Block) -> int:
    rows_before = findings.row_count
    first = -(rows_before + 1) % MARK_EVERY_ROWS
    for index in range(first, len(block), MARK_EVERY_ROWS):
        last = findings.marks[-1]
        rows_since = rows_before + index + 1 - last.rows
        mark = last.after(block.row(index), rows_since)
        findings.marks.append(mark)

    findings.row_count += len(block)
    examples = {}
    for index in block.others():
        example = _judge(dataset, findings, block.row(index))
        if example is not None:
            examples[index] = example

    findings.doctor.see_block(block, examples)

    return block.end(len(block) - 1)


def _judge(dataset: Dataset, findings: Findings, row: Row) -> Example | None:
    """The example that the row holds. None for a row that nothing can be learned from, which is
    noted."""
    if row.values is None:
        findings.add_problem(dataset, row.line, "", row.raw, row.problem)
        return None

    findings.add_columns(row.values)
    if not findings.format:
        return None

    try:
        example = to_example(row.values, findings.format, findings.column_map)
    except RowProblem as problem:
        findings.add_problem(
            dataset,
            row.line,
            problem.field,
            problem.value,
            problem.reason,
            problem.kind,
        )
        findings.doctor.see_problem(row.line, problem)
        return None

    if row.notes:
        example.notes = (*row.notes, *example.notes)

    return example


def obstacle(findings: Findings) -> str:
    """Why a file that was read to its end cannot be used, or nothing."""
    if findings.row_count == 0:
        return EMPTY
    if not findings.columns and not findings.problems:
        return NOTHING_IN_ROWS

    if not findings.columns:
        first = findings.problems[0]
        return f"{none_of(findings.row_count)} can be read. Line {first.line:,}: {first.reason}"

    if not findings.format:
        return no_format(findings.columns)

    if findings.problem_count == findings.row_count:
        first = findings.problems[0]
        where = f"line {first.line:,}"
        if first.field:
            where += f", {field_words(first.field)}"

        rows = none_of(findings.row_count)
        return f"{rows} can be used. The first problem, {where}: {first.reason}"

    return ""


def none_of(rows: int) -> str:
    return f"None of the {rows:,} rows" if rows > 1 else "None of its rows"


def _checked_here(dataset: Dataset) -> Any:
    """The dataset's row, as long as no later check has taken its place."""
    return Dataset.objects.filter(
        pk=dataset.pk,
        status=Dataset.Status.CHECKING,
        check_attempts=dataset.check_attempts,
    )


def _conclude(dataset: Dataset, findings: Findings, error: str) -> None:
    status = Dataset.Status.FAILED if error else Dataset.Status.READY
    with transaction.atomic():
        is_written = _checked_here(dataset).update(
            status=status,
            error=error,
            format=findings.format,
            column_map=findings.column_map,
            columns=findings.columns_found(),
            row_count=findings.row_count,
            problem_count=findings.problem_count,
            findings=clean_json(findings.doctor.findings()),
            checked_bytes=dataset.size_bytes,
            check_attempts=0,
            checked_at=timezone.now(),
        )

        if not is_written:
            return

        dataset.problems.all().delete()
        DatasetProblem.objects.bulk_create(findings.problems, batch_size=200)
        _write_marks(dataset, findings.marks)

    logger.info(
        "dataset %s checked: %s, %s rows, %s problems",
        dataset.pk,
        status,
        findings.row_count,
        findings.problem_count,
    )

    if not error:
        dataset.refresh_from_db()
        # For the model that is offered first, so that the counts are there when somebody looks.
        reader = dataset.owner or AnonymousUser()
        lengths_of(dataset, tokenizer_choose(reader))


def _write_marks(dataset: Dataset, marks: list[FilePosition]) -> None:
    temporary = dataset.marks_path.with_suffix(".tmp")
    if not temporary.parent.is_dir():
        # Deleted in the meantime.
        return

    values = [list(asdict(mark).values()) for mark in marks]
    temporary.write_text(json.dumps(values))
    temporary.replace(dataset.marks_path)


def clean_json(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings with texts that every database takes: no NUL, nothing that UTF-8 cannot
    write."""
    cleaned = []
    for finding in findings:
        clean = dict(finding)
        clean["examples"] = [
            example | {"text": clean_text(example["text"])} for example in finding["examples"]
        ]

        if "fields" in finding:
            clean["fields"] = [
                field | {"name": clean_label(field["name"], limit=200)}
                for field in finding["fields"]
            ]

        cleaned.append(clean)

    return cleaned
