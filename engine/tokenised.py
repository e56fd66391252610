"""Rows of a dataset as token ids, and where they are kept: a later train on the same rows tokenises nothing.

What is kept lies beside the dataset, so that it goes with it: Arrow files, which are mapped and not read. A file's name
is a hash of all that its content depends on, so none is ever out of date; the oldest make room for new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import tokenizers
import transformers

from engine.data import file_check
from engine.examples import Example
from engine.job import Job
from engine.render import Renderer
from engine.rundir import DataFile

# To be raised with every change of what rows become.
VERSION = 1
# So many files a dataset: other base models, other token limits.
KEPT = 4
SUFFIX = ".arrow"
NOTES = b"notes"
IDS = pyarrow.list_(pyarrow.int32())


@dataclass
class Rows:
    """Tokenised rows while they are collected, in file order.

    `columns`: one list a column of the trainer, a row each, of ids or of yes and no; `lengths`: tokens of the longest
    text of each row; `examples`: JSON of each. `left_out`: rows of which nothing can be learned under the token limit;
    `cut`: rows that lose an end; `turn_ends`: tokens with which answers end; `warnings`: (code, message).
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    left_out: int = 0
    cut: int = 0
    turn_ends: set[int] = field(default_factory=set)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.examples)

    def add(self, example: Example, length: int, **values: Any) -> None:
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)
        self.lengths.append(length)
        self.examples.append(json.dumps(asdict(example)))

    def tokenised(self) -> Tokenised:
        arrays = {
            name: pyarrow.array(values, pyarrow.bool_() if isinstance(values[0], bool) else IDS)
            for name, values in self.columns.items()
        }
        told = {
            "lengths": pyarrow.array(self.lengths, pyarrow.int32()),
            "examples": pyarrow.array(self.examples, pyarrow.string()),
        }
        notes = {
            "left_out": self.left_out,
            "cut": self.cut,
            "turn_ends": sorted(self.turn_ends),
            "warnings": self.warnings,
        }
        table = pyarrow.table(told | arrays)
        return Tokenised(table.replace_schema_metadata({NOTES: json.dumps(notes)}))


class Tokenised:
    """Rows that are collected, as one Arrow table."""

    def __init__(self, table: pyarrow.Table) -> None:
        self.table = table
        notes = json.loads(table.schema.metadata[NOTES])
        self.left_out: int = notes["left_out"]
        self.cut: int = notes["cut"]
        self.turn_ends: set[int] = set(notes["turn_ends"])
        self.warnings: list[tuple[str, str]] = notes["warnings"]
        self.lengths: list[int] = table["lengths"].to_pylist()

    def __len__(self) -> int:
        return len(self.table)

    def example(self, index: int) -> Example:
        return Example(**json.loads(self.table["examples"][index].as_py()))

    def dataset(self, indices: list[int]) -> Any:
        """A Dataset of these rows, with the trainer's columns."""
        from datasets import Dataset  # type: ignore[import-untyped]

        columns = self.table.drop_columns(["lengths", "examples"]).replace_schema_metadata()
        return Dataset(columns.take(pyarrow.array(indices, pyarrow.int64())))

    def by_length(self, indices: list[int]) -> Any:
        """For measuring, where the order is free: little padding in a batch."""
        return self.dataset(sorted(indices, key=self.lengths.__getitem__))


def tokenised(job: Job, data: DataFile, renderer: Renderer, fill: Callable[[Rows], None], **depends: Any) -> Tokenised:
    """The rows that `fill` makes of `data`, or those kept from an earlier time. `depends`: what they depend on besides
    the dataset, the tokenizer and its template, and the renderer's own options."""
    path = _path(data, renderer, depends)
    found = _kept(path)
    if found is not None:
        file_check(data)
        for code, message in found.warnings:
            job.warn(code, message)
        job.say(f"{len(found):,} rows tokenised by an earlier train")
        return found
    rows = Rows()
    told = renderer.warn

    def warn(code: str, message: str) -> None:
        if (code, message) not in rows.warnings:
            rows.warnings.append((code, message))
        told(code, message)

    renderer.warn = warn
    try:
        fill(rows)
    finally:
        renderer.warn = told
    made = rows.tokenised()
    if path is not None:
        try:
            _keep(path, made.table)
        except OSError as error:
            job.say(f"the tokenised rows are not kept for later trains: {error}")
    return made


def _path(data: DataFile, renderer: Renderer, depends: dict[str, Any]) -> Path | None:
    """None where nothing is to be kept, or where it is not known what a tokenizer depends on."""
    tokenizer = renderer.tokenizer
    if not data.cache or not tokenizer.is_fast:
        return None
    whole = {
        "version": [VERSION, transformers.__version__, tokenizers.__version__],
        "data": [data.sha256, data.file_type, data.format, data.column_map],
        "tokenizer": [type(tokenizer).__name__, tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map],
        "template": tokenizer.chat_template,
        "renderer": [renderer.system_prompt, renderer.answers_only],
        "depends": depends,
    }
    text = json.dumps(whole, sort_keys=True, default=str)
    return Path(data.cache) / (hashlib.sha256(text.encode()).hexdigest() + SUFFIX)


def _kept(path: Path | None) -> Tokenised | None:
    """What lies there, None where nothing does, or nothing whole."""
    if path is None:
        return None
    try:
        with pyarrow.memory_map(str(path)) as source:
            found = Tokenised(pyarrow.ipc.open_file(source).read_all())
    except (OSError, pyarrow.ArrowException, LookupError, TypeError, ValueError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def _keep(path: Path, table: pyarrow.Table) -> None:
    path.parent.mkdir(exist_ok=True)
    # Under another name until it is whole: another train may look meanwhile.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        try:
            with pyarrow.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            Path(stream.name).unlink()
            raise
    Path(stream.name).replace(path)
    others = sorted(path.parent.iterdir(), key=lambda other: other.stat().st_mtime, reverse=True)
    for old in others[KEPT:]:
        old.unlink(missing_ok=True)
