"""Datasets of the Hugging Face hub: their rows are fetched in the background and kept as a file
like any other."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from accounts.services import hub_token_for
from core.errors import UserError
from core.hub import hub_download, reference_clean
from core.programs import ProgramProblem, Report
from core.store import require_disk
from core.text import clean_label, clean_text
from datasets_app.models import Dataset
from datasets_app.services import (
    DESCRIPTION_LIMIT,
    check_enqueue,
    dataset_slug,
    labels_clean,
    labels_set,
)

MOST_ROWS = 10**9


class _Gone(Exception):
    """The dataset was deleted while it was fetched."""


def dataset_import(
    *,
    owner: User,
    reference: str,
    configuration: str = "",
    split: str = "",
    most_rows: int | None = None,
    name: str = "",
    description: str = "",
    labels: Iterable[str] = (),
) -> Dataset:
    """Fetch a split of org/name[@revision] in the background. Raises UserError by field.

    configuration, split: "" for the usual one. most_rows: None for all.
    """
    reference = reference_clean(reference, "dataset", "openai/gsm8k")
    words = {"configuration": configuration, "split": split}

    for field, word in words.items():
        words[field] = clean_label(word, limit=100)
        if words[field] != word.strip() or "[" in word:
            text = f"Write the {field}'s name alone, as the hub shows it."
            raise UserError(
                {field: [text if "[" not in word else f"{text} Rows are limited below."]}
            )

    if most_rows is not None and not 1 <= most_rows <= MOST_ROWS:
        raise UserError(
            {"most_rows": [f"Give a number from 1 to {MOST_ROWS:,}, or none for all rows."]}
        )

    require_disk(1, field="reference")
    identity, _, revision = reference.partition("@")
    hub = {"id": identity, "asked": revision, "most_rows": most_rows or 0, **words}
    stem = identity.partition("/")[2]
    labels = labels_clean(labels)

    with transaction.atomic():
        dataset = Dataset.objects.create(
            owner=owner,
            name=clean_label(name, limit=120) or stem[:120],
            slug=dataset_slug(name or stem),
            description=clean_text(description)[:DESCRIPTION_LIMIT],
            file_name=f"{stem[:200]}.jsonl",
            file_type="jsonl",
            size_bytes=0,
            sha256="",
            hub=hub,
        )

        labels_set(dataset=dataset, by=owner, labels=labels)
        shutil.rmtree(dataset.path.parent, ignore_errors=True)
        dataset.path.parent.mkdir(parents=True, mode=0o700)
        check_enqueue(dataset)

    return dataset


def rows_fetch(dataset: Dataset) -> str:
    """Write the file of a dataset that is yet to come from the hub; returns why it cannot be, or
    nothing.

    May be broken off and begun again: the file is renamed when it is whole.
    """
    temporary = dataset.path.with_suffix(".tmp")
    home = dataset.path.with_name("hub")

    try:
        done = _download(dataset, temporary, home)
        temporary.replace(dataset.path)
        dropped = [clean_label(name, limit=200) for name in done["dropped"]]
        _write(
            dataset,
            size_bytes=int(done["size_bytes"]),
            sha256=str(done["sha256"]),
            hub=dataset.hub | {"dropped": dropped},
        )
    except ProgramProblem as problem:
        return str(problem)
    except (_Gone, FileNotFoundError):
        return "It was deleted while it was fetched."
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(home, ignore_errors=True)

    return ""


def _download(dataset: Dataset, out: Path, home: Path) -> Report:
    hub = dataset.hub
    reports = 0

    def arguments(free_bytes: int) -> list[str]:
        # Half of what is free: the hub's library keeps what it reads of some formats as well.
        largest_bytes = max(0, free_bytes // 2)
        return [
            hub["id"],
            hub["asked"],
            hub["configuration"],
            hub["split"],
            str(hub["most_rows"]),
            str(out),
            str(largest_bytes),
        ]

    def on_report(report: Report) -> None:
        nonlocal reports
        reports += 1

        if "revision" in report:
            source = {
                name: clean_label(str(report[name]), limit=100)
                for name in ("revision", "configuration", "split")
            }
            licence = clean_label(str(report["licence"]), limit=100)
            _write(dataset, hub=dataset.hub | source, licence=licence)
        elif "rows" in report:
            _write(dataset, row_count=int(report["rows"]))

    return hub_download(
        "engine.programs.hub.dataset",
        arguments,
        home=home,
        token=hub_token_for(dataset.owner),
        progress=lambda: reports,
        on_report=on_report,
    )


def _write(dataset: Dataset, **values: Any) -> None:
    if not Dataset.objects.filter(pk=dataset.pk, status=Dataset.Status.CHECKING).update(**values):
        raise _Gone

    for name, value in values.items():
        setattr(dataset, name, value)
