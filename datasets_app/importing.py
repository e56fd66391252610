"""Datasets of the Hugging Face hub: their rows are fetched in the background and kept as a file
like any other."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from accounts.services import hub_token_for
from core.errors import UserError
from core.hub import (
    Standstill,
    download_with_retries,
    free_bytes,
    hub_environment,
    reference_clean,
)
from core.programs import ProgramProblem, program_run
from core.store import require_disk
from core.text import clean_label, clean_text
from datasets_app.models import Dataset
from datasets_app.services import (
    DESCRIPTION_LIMIT,
    check_enqueue,
    dataset_slug,
    folder_make,
    labels_clean,
    labels_set,
)

MEMORY_BYTES = 4 << 30
MOST_ROWS = 10**9


class _Withdrawn(Exception):
    """The dataset was deleted, or its check was cancelled, while it was fetched."""


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
    configuration = _hub_name("configuration", configuration)
    split = _hub_name("split", split)

    if most_rows is not None and not 1 <= most_rows <= MOST_ROWS:
        raise UserError(
            {"most_rows": [f"Give a number from 1 to {MOST_ROWS:,}, or none for all rows."]}
        )

    require_disk(1, field="reference")
    identity, _, revision = reference.partition("@")
    _, _, stem = identity.partition("/")
    hub = {
        "id": identity,
        "asked": revision,
        "most_rows": most_rows or 0,
        "configuration": configuration,
        "split": split,
    }
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
        folder_make(dataset)
        check_enqueue(dataset)

    return dataset


def _hub_name(field: str, text: str) -> str:
    """The name of a configuration or split as the hub takes it. Raises UserError {field: …}."""
    name = clean_label(text, limit=100)
    if name == text.strip() and "[" not in name:
        return name

    message = f"Write the {field}'s name alone, as the hub shows it."
    if "[" in text:
        message += " Rows are limited below."

    raise UserError({field: [message]})


def rows_fetch(dataset: Dataset) -> str:
    """Write the file of a dataset that is yet to come from the hub; returns why it cannot be, or
    nothing.

    May be broken off and begun again: the file is renamed when it is whole.
    """
    temporary = dataset.path.with_suffix(".tmp")
    try:
        fetched = download_with_retries(lambda: _download(dataset), _wait)
        dropped = [clean_label(name, limit=200) for name in fetched["dropped"]]
        temporary.replace(dataset.path)
        _write(
            dataset,
            size_bytes=int(fetched["size_bytes"]),
            sha256=str(fetched["sha256"]),
            hub=dataset.hub | {"dropped": dropped},
        )
    except ProgramProblem as problem:
        return str(problem)
    except (_Withdrawn, FileNotFoundError):
        return "It was deleted while it was fetched."
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(_hub_home(dataset), ignore_errors=True)

    return ""


def _wait(attempt: int, seconds: float) -> None:
    time.sleep(seconds)


def _hub_home(dataset: Dataset) -> Path:
    """What the hub's library keeps while it downloads."""
    return dataset.path.with_name("hub")


def _download(dataset: Dataset) -> dict[str, Any]:
    hub = dataset.hub
    standstill = Standstill()

    def on_news(news: dict[str, Any]) -> None:
        standstill.moved()
        if "revision" in news:
            resolved = {}
            for name in ("revision", "configuration", "split"):
                resolved[name] = clean_label(str(news[name]), limit=100)

            licence = clean_label(str(news["licence"]), limit=100)
            _write(dataset, hub=dataset.hub | resolved, licence=licence)
        elif "rows" in news:
            _write(dataset, row_count=int(news["rows"]))

    # Half of what is free: the hub's library keeps what it reads of some formats as well.
    most_bytes = max(0, free_bytes() // 2)

    return program_run(
        "engine.programs.hub.dataset",
        hub["id"],
        hub["asked"],
        hub["configuration"],
        hub["split"],
        str(hub["most_rows"]),
        str(dataset.path.with_suffix(".tmp")),
        str(most_bytes),
        seconds=None,
        memory_bytes=MEMORY_BYTES,
        environment=hub_environment(_hub_home(dataset), hub_token_for(dataset.owner)),
        on_news=on_news,
        on_tick=standstill.check,
    )


def _write(dataset: Dataset, **values: Any) -> None:
    """Raises _Withdrawn."""
    rows = Dataset.objects.filter(pk=dataset.pk, status=Dataset.Status.CHECKING)
    if not rows.update(**values):
        raise _Withdrawn

    for name, value in values.items():
        setattr(dataset, name, value)
