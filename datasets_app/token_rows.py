"""Rows of a dataset as tokens, with those that are learned marked, for one model: a page at a time.

A program of the engine renders them: the web imports no training library, and a chat template is a
stranger's program. What it says is kept beside the dataset, for the next reader."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.programs import ProgramProblem, program_run
from core.tokenizers import Tokenizer
from datasets_app.models import Dataset
from datasets_app.preview import file_options, mark_options, nearest_mark
from engine.chat.row_notes import WORDS

SECONDS = 60
MEMORY_BYTES = 8 << 30
# Each takes a processor for some seconds. Others wait this long, and are then asked to try again.
AT_ONCE = threading.BoundedSemaphore(2)
WAIT_SECONDS = 20
PAGES_KEPT = 24
KEPT_SECONDS = 24 * 3600
BUSY = "Too many rows are being shown as tokens at the moment. Try again in a minute."
TOO_LONG = (
    f"The rows could not be shown within {SECONDS} s. The model's chat template may loop for ever."
)


def token_rows(
    dataset: Dataset, tokenizer: Tokenizer, start: int, count: int
) -> list[dict[str, Any]]:
    """At most `count` rows behind the first `start`, as engine.programs.token_rows prints them, with
    findings as sentences.

    Raises UserError (503 where it may go well later).
    """
    if start >= dataset.row_count:
        return []

    kept = token_rows_kept(dataset, tokenizer, start, count)
    if kept is not None:
        return kept

    rows = _rendered(dataset, tokenizer, start, count)
    _keep(_kept_path(dataset, tokenizer, start, count), rows)

    return rows


def token_rows_kept(
    dataset: Dataset, tokenizer: Tokenizer, start: int, count: int
) -> list[dict[str, Any]] | None:
    """The rows where they were rendered before, None where they were not."""
    path = _kept_path(dataset, tokenizer, start, count)
    try:
        if time.time() - path.stat().st_mtime > KEPT_SECONDS:
            return None

        rows: list[dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None

    return rows


def _rendered(
    dataset: Dataset, tokenizer: Tokenizer, start: int, count: int
) -> list[dict[str, Any]]:
    mark = nearest_mark(dataset, start)
    if not AT_ONCE.acquire(timeout=WAIT_SECONDS):
        raise UserError(BUSY, status=503)

    try:
        report = program_run(
            "engine.programs.token_rows",
            *file_options(dataset),
            *mark_options(mark),
            "--model",
            tokenizer.path,
            "--skip",
            str(start - mark.rows),
            "--rows",
            str(min(count, dataset.row_count - start)),
            seconds=SECONDS,
            memory_bytes=MEMORY_BYTES,
            too_long=TOO_LONG,
            environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    except ProgramProblem as problem:
        raise UserError(str(problem), status=409) from problem
    finally:
        AT_ONCE.release()

    rows: list[dict[str, Any]] = report["rows"]
    for row in rows:
        known = [code for code in row["findings"] if code in WORDS]
        row["findings"] = [WORDS[code].format(rows="this row") for code in known]

    return rows


def _kept_path(dataset: Dataset, tokenizer: Tokenizer, start: int, count: int) -> Path:
    """Where the rows are kept. Its name changes with everything that they depend on."""
    inputs = [
        dataset.sha256,
        dataset.format,
        dataset.column_map,
        tokenizer.sha256,
        start,
        count,
    ]
    text = json.dumps(inputs, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()

    return dataset.path.parent / "token_pages" / f"{digest}.json"


def _keep(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True, mode=0o700)
    # Under another name until it is whole: somebody else may ask for the same page meanwhile.
    unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    unfinished.write_text(json.dumps(rows))
    unfinished.replace(path)

    by_age = sorted(path.parent.glob("*.json"), key=_modified, reverse=True)

    for old in by_age[PAGES_KEPT:]:
        old.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
