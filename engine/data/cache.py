"""Rows of a dataset as token ids, and their cache: a later train of the same recipe on the same
rows tokenises nothing.

The cache lies beside the dataset, so that it is deleted with it: Arrow files, which are mapped into
memory. A file's name is a hash of all that its content depends on, the recipe and the code that
makes it included; the oldest make room for new ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import tokenizers
import transformers

from engine.chat.render import Renderer
from engine.chat.row_notes import RowNotes
from engine.contract.rundir import DataFile
from engine.data.split import file_check
from engine.rows.examples import Example
from engine.run.job import Job

# Files for one dataset: other recipes, base models, token limits.
MOST_FILES = 4
# A file takes no more than this share of the disk's free room, which checkpoints need more.
LARGEST_SHARE_OF_DISK = 0.1
SUFFIX, UNFINISHED = ".arrow", "unfinished-"
UNFINISHED_SECONDS = 24 * 3600
NOTES = b"notes"
IDS = pyarrow.list_(pyarrow.int32())


@dataclass
class Rows:
    """Tokenised rows while they are collected, in file order.

    `columns`: one list a column of the trainer, a row each, of ids or of yes and no; `lengths`:
    tokens of the longest text of each row; `numbers`: of each row in the file. `left_out`: rows of
    which nothing can be learned under the token limit; `cut`: rows that lose an end; `alike`: pairs
    whose answers are the same to the template; `ended`: texts, and conversations that are learned to
    the end of their last answer;
    `turn_ends`: tokens with which answers end; `warnings`: (code, message)."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    left_out: int = 0
    cut: int = 0
    alike: int = 0
    ended: int = 0
    turn_ends: set[int] = field(default_factory=set)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    notes: RowNotes = field(default_factory=RowNotes)
    # Of the row that is being added: what the template does to it, codes of engine.chat.row_notes;
    # its number in the file.
    codes: set[str] = field(default_factory=set)
    number: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    def add(self, example: Example, length: int, **values: Any) -> None:
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

        self.lengths.append(length)
        self.numbers.append(self.number)
        self.examples.append(example)

    def tokenised(self) -> Tokenised:
        arrays = {}
        for name, values in self.columns.items():
            column_type = pyarrow.bool_() if isinstance(values[0], bool) else IDS
            arrays[name] = pyarrow.array(values, column_type)

        notes = {
            "left_out": self.left_out,
            "cut": self.cut,
            "alike": self.alike,
            "ended": self.ended,
            "notes": self.notes.as_json(),
            "turn_ends": sorted(self.turn_ends),
            "warnings": self.warnings,
        }

        lengths = pyarrow.array(self.lengths, pyarrow.int32())
        numbers = pyarrow.array(self.numbers, pyarrow.int64())
        table = pyarrow.table({"lengths": lengths, "numbers": numbers} | arrays)
        table = table.replace_schema_metadata({NOTES: json.dumps(notes)})
        return Tokenised(table, self.examples.__getitem__)


class Tokenised:
    """All tokenised rows as one Arrow table. `example`: the row with this number before it was
    tokenised."""

    def __init__(self, table: pyarrow.Table, example: Callable[[int], Example]) -> None:
        self.table = table
        self.example = example
        notes = json.loads(table.schema.metadata[NOTES])
        self.left_out: int = notes["left_out"]
        self.cut: int = notes["cut"]
        self.alike: int = notes["alike"]
        self.ended: int = notes["ended"]
        self.notes = RowNotes.read(notes["notes"])
        self.turn_ends: set[int] = set(notes["turn_ends"])
        self.warnings: list[tuple[str, str]] = notes["warnings"]
        self.lengths: list[int] = table["lengths"].to_pylist()
        self.numbers: list[int] = table["numbers"].to_pylist()

    def __len__(self) -> int:
        return len(self.table)

    def dataset(self, indices: list[int]) -> Any:
        """A Dataset of these rows, with the trainer's columns."""
        from datasets import Dataset  # type: ignore[import-untyped]

        columns = self.table.drop_columns(["lengths", "numbers"]).replace_schema_metadata()
        return Dataset(columns.take(pyarrow.array(indices, pyarrow.int64())))

    def by_length(self, indices: list[int]) -> Any:
        """The Dataset in order of length, for little padding in a batch: for evaluation, where the
        order does not matter."""
        return self.dataset(sorted(indices, key=self.lengths.__getitem__))


def tokenised(
    job: Job, data: DataFile, renderer: Renderer, fill: Callable[[Rows], None], **depends: Any
) -> Tokenised:
    """The rows that `fill` makes of `data`, or those that an earlier train cached. `depends`: what
    they depend on besides the recipe, the dataset, the tokenizer and its template, and the
    renderer's own options."""
    path = _path(job.spec.recipe, data, renderer, depends)
    cached = _cached_rows(path)
    if cached is not None:
        file_check(data)
        for code, message in cached.warnings:
            job.warn(code, message)

        job.say(f"{len(cached):,} rows tokenised by an earlier train")
        return cached

    rows = Rows()
    warn_job = renderer.warn
    # What was learned from another dataset's rows would keep a warning from these.
    renderer.system_is_known = None

    def warn(code: str, message: str) -> None:
        if (code, message) not in rows.warnings:
            rows.warnings.append((code, message))

        warn_job(code, message)

    renderer.warn = warn

    try:
        fill(rows)
    finally:
        renderer.warn = warn_job

    result = rows.tokenised()
    if path is not None:
        try:
            _cache_write(path, result, rows.examples)
        except (OSError, TypeError) as error:
            # TypeError: Parquet knows values that JSON does not.
            job.say(f"the tokenised rows are not kept for later trains: {error}")

    return result


def _path(recipe: str, data: DataFile, renderer: Renderer, depends: dict[str, Any]) -> Path | None:
    """The cache file, named by a hash of all that its rows depend on. None where nothing is to be
    cached, or where it is not known what a tokenizer depends on."""
    tokenizer = renderer.tokenizer
    if not data.cache or not tokenizer.is_fast:
        return None

    template = str(tokenizer.chat_template)
    # Some templates write today's date.
    has_date = "strftime" in template
    today = datetime.now().astimezone().date().isoformat() if has_date else ""
    identity = {
        "code": [_code_hash(), transformers.__version__, tokenizers.__version__],
        # Recipes tokenise the same dataset in ways of their own.
        "recipe": recipe,
        "data": [data.sha256, data.file_type, data.format, data.column_map],
        "tokenizer": [
            type(tokenizer).__name__,
            tokenizer.backend_tokenizer.to_str(),
            tokenizer.special_tokens_map,
            getattr(tokenizer, "split_special_tokens", False),
        ],
        "template": [template, today],
        "renderer": [renderer.system_prompt, renderer.answers_only, renderer.thinking.choice],
        "depends": depends,
    }

    text = json.dumps(identity, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Path(data.cache) / f"{digest}{SUFFIX}"


@lru_cache(maxsize=1)
def _code_hash() -> str:
    """SHA-256 over all of the engine's code: a list of the modules that decide about tokens would
    one day lack one, and a train would learn from another version's tokens."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())

    return digest.hexdigest()


def _cached_rows(path: Path | None) -> Tokenised | None:
    """The cached rows; None where there is no file, or one that is not whole."""
    if path is None:
        return None

    try:
        with pyarrow.memory_map(str(path)) as source:
            table = pyarrow.ipc.open_file(source).read_all()

        examples = table["examples"]
        columns = table.drop_columns(["examples"])
        rows = Tokenised(columns, lambda index: Example(**json.loads(examples[index].as_py())))
    except (OSError, pyarrow.ArrowException, LookupError, TypeError, ValueError):
        return None

    with contextlib.suppress(OSError):
        os.utime(path)

    return rows


def _cache_write(path: Path, rows: Tokenised, examples: list[Example]) -> None:
    """Write the rows to the cache. Raises OSError, and TypeError for rows that JSON cannot hold."""
    lines = [json.dumps(asdict(example)) for example in examples]
    texts = pyarrow.array(lines, pyarrow.string())
    table = rows.table.append_column("examples", texts)
    path.parent.mkdir(exist_ok=True)

    if table.nbytes > LARGEST_SHARE_OF_DISK * shutil.disk_usage(path.parent).free:
        raise OSError(f"they would take {table.nbytes / 1e6:,.1f} MB of a disk that is nearly full")

    # Under another name until it is whole: another train may look meanwhile.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=UNFINISHED, delete=False) as stream:
        try:
            with pyarrow.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)

            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            Path(stream.name).unlink()
            raise

    Path(stream.name).replace(path)
    _evict_oldest(path.parent)


def _evict_oldest(folder: Path) -> None:
    """Remove the oldest files beyond MOST_FILES, and what a train that was killed left unfinished."""
    finished = sorted(_ages(folder, f"*{SUFFIX}"))
    for _, path in finished[MOST_FILES:]:
        path.unlink(missing_ok=True)

    for age, path in _ages(folder, f"{UNFINISHED}*"):
        if age > UNFINISHED_SECONDS:
            path.unlink(missing_ok=True)


def _ages(folder: Path, pattern: str) -> list[tuple[float, Path]]:
    """(seconds since the last use, file) of each file."""
    ages = []
    now = time.time()

    for path in folder.glob(pattern):
        # Another train may have removed it meanwhile.
        with contextlib.suppress(OSError):
            ages.append((now - path.stat().st_mtime, path))

    return ages
