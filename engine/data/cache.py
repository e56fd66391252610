"""Rows of a dataset as token ids, and where they are kept: a later train on the same rows tokenises
nothing.

What is kept lies beside the dataset, so that it goes with it: Arrow files, which are mapped and not
read. A file's name is a hash of all that its content depends on, the code that makes it included;
the oldest make room for new ones."""

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

# So many files a dataset: other base models, other token limits.
KEPT = 4
# A file takes no more than this share of the disk's free room, which checkpoints need more.
SHARE_OF_ROOM = 0.1
SUFFIX, UNFINISHED = ".arrow", "unfinished-"
UNFINISHED_SECONDS = 24 * 3600
NOTES = b"notes"
IDS = pyarrow.list_(pyarrow.int32())


@dataclass
class Rows:
    """Tokenised rows while they are collected, in file order.

    `columns`: one list a column of the trainer, a row each, of ids or of yes and no; `lengths`:
    tokens of the longest text of each row. `left_out`: rows of which nothing can be learned under
    the token limit; `cut`: rows that lose an end; `alike`: pairs whose answers are the same to the
    template; `ended`: texts, and conversations that are learned to the end of their last answer;
    `turn_ends`: tokens with which answers end; `warnings`: (code, message)."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    left_out: int = 0
    cut: int = 0
    alike: int = 0
    ended: int = 0
    turn_ends: set[int] = field(default_factory=set)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    notes: RowNotes = field(default_factory=RowNotes)
    # What the template does to the row that is being added: codes of engine.chat.row_notes.
    codes: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.examples)

    def add(self, example: Example, length: int, **values: Any) -> None:
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

        self.lengths.append(length)
        self.examples.append(example)

    def tokenised(self) -> Tokenised:
        arrays = {
            name: pyarrow.array(values, pyarrow.bool_() if isinstance(values[0], bool) else IDS)
            for name, values in self.columns.items()
        }

        notes = {
            "left_out": self.left_out,
            "cut": self.cut,
            "alike": self.alike,
            "ended": self.ended,
            "notes": self.notes.as_json(),
            "turn_ends": sorted(self.turn_ends),
            "warnings": self.warnings,
        }

        table = pyarrow.table({"lengths": pyarrow.array(self.lengths, pyarrow.int32())} | arrays)

        return Tokenised(
            table.replace_schema_metadata({NOTES: json.dumps(notes)}), self.examples.__getitem__
        )


class Tokenised:
    """Rows that are collected, as one Arrow table. `example`: a row as it was before, by its
    number."""

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

    def __len__(self) -> int:
        return len(self.table)

    def dataset(self, indices: list[int]) -> Any:
        """A Dataset of these rows, with the trainer's columns."""
        from datasets import Dataset  # type: ignore[import-untyped]

        columns = self.table.drop_columns(["lengths"]).replace_schema_metadata()
        return Dataset(columns.take(pyarrow.array(indices, pyarrow.int64())))

    def by_length(self, indices: list[int]) -> Any:
        """For measuring, where the order is free: little padding in a batch."""
        return self.dataset(sorted(indices, key=self.lengths.__getitem__))


def tokenised(
    job: Job, data: DataFile, renderer: Renderer, fill: Callable[[Rows], None], **depends: Any
) -> Tokenised:
    """The rows that `fill` makes of `data`, or those kept from an earlier time. `depends`: what
    they depend on besides the dataset, the tokenizer and its template, and the renderer's own
    options."""
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
    # What was learned from another dataset's rows would keep a warning from these.
    renderer.system_is_known = None

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
            _keep(path, made, rows.examples)
        except (OSError, TypeError) as error:
            # TypeError: Parquet knows values that JSON does not.
            job.say(f"the tokenised rows are not kept for later trains: {error}")

    return made


def _path(data: DataFile, renderer: Renderer, depends: dict[str, Any]) -> Path | None:
    """None where nothing is to be kept, or where it is not known what a tokenizer depends on."""
    tokenizer = renderer.tokenizer
    if not data.cache or not tokenizer.is_fast:
        return None

    template = str(tokenizer.chat_template)
    whole = {
        "code": [_code(), transformers.__version__, tokenizers.__version__],
        "data": [data.sha256, data.file_type, data.format, data.column_map],
        "tokenizer": [
            type(tokenizer).__name__,
            tokenizer.backend_tokenizer.to_str(),
            tokenizer.special_tokens_map,
            getattr(tokenizer, "split_special_tokens", False),
        ],
        # Some templates write today's date.
        "template": [
            template,
            datetime.now().astimezone().date().isoformat() if "strftime" in template else "",
        ],
        "renderer": [renderer.system_prompt, renderer.answers_only, renderer.thinking.choice],
        "depends": depends,
    }

    text = json.dumps(whole, sort_keys=True, default=str)

    return Path(data.cache) / (hashlib.sha256(text.encode()).hexdigest() + SUFFIX)


@lru_cache(maxsize=1)
def _code() -> str:
    """Of all the engine's code: a list of what decides about tokens would one day lack a module,
    and a train would learn from another version's tokens."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        total.update(path.read_bytes())

    return total.hexdigest()


def _kept(path: Path | None) -> Tokenised | None:
    """What lies there, None where nothing does, or nothing whole."""
    if path is None:
        return None

    try:
        with pyarrow.memory_map(str(path)) as source:
            table = pyarrow.ipc.open_file(source).read_all()

        examples = table["examples"]
        found = Tokenised(
            table.drop_columns(["examples"]),
            lambda index: Example(**json.loads(examples[index].as_py())),
        )
    except (OSError, pyarrow.ArrowException, LookupError, TypeError, ValueError):
        return None

    with contextlib.suppress(OSError):
        os.utime(path)

    return found


def _keep(path: Path, made: Tokenised, examples: list[Example]) -> None:
    """Raises OSError, and TypeError for rows that JSON cannot hold."""
    texts = pyarrow.array([json.dumps(asdict(example)) for example in examples], pyarrow.string())
    table = made.table.append_column("examples", texts)
    path.parent.mkdir(exist_ok=True)

    if table.nbytes > SHARE_OF_ROOM * shutil.disk_usage(path.parent).free:
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
    _room_make(path.parent)


def _room_make(folder: Path) -> None:
    """Remove the oldest beyond KEPT, and what a train that was killed left unfinished."""
    ages = []
    for path in (*folder.glob(f"*{SUFFIX}"), *folder.glob(f"{UNFINISHED}*")):
        # Another train may have removed it meanwhile.
        with contextlib.suppress(OSError):
            ages.append((time.time() - path.stat().st_mtime, path))

    whole = sorted(item for item in ages if item[1].suffix == SUFFIX)
    broken_off = [
        item for item in ages if item[1].suffix != SUFFIX and item[0] > UNFINISHED_SECONDS
    ]
    for _, path in (*whole[KEPT:], *broken_off):
        path.unlink(missing_ok=True)
