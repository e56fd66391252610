"""Datasets of the Hugging Face hub: their rows are fetched in the background and kept as a file
like any other."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from accounts.services import hub_token_for
from core.errors import UserError
from core.hub import hub_environment, reference_clean
from core.programs import ProgramProblem, program_run
from core.store import require_disk
from core.text import clean_label, clean_text
from datasets_app.models import Dataset
from datasets_app.services import (
    DESCRIPTION_LIMIT,
    check_enqueue,
    labels_clean,
    labels_set,
    slug_free,
)

MEMORY_BYTES = 4 << 30
MOST_ROWS = 10**9
STANDSTILL_SECONDS = 300
TRIES = 4
RETRY_SECONDS = 5.0


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
            slug=slug_free(name or stem),
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
    temporary, home = dataset.path.with_suffix(".tmp"), dataset.path.with_name("hub")
    try:
        for attempt in range(1, TRIES + 1):
            try:
                done = _download(dataset)
                break
            except ProgramProblem as problem:
                if not problem.passing or attempt == TRIES:
                    return str(problem)

                time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))

        temporary.replace(dataset.path)
        _write(
            dataset,
            size_bytes=int(done["size_bytes"]),
            sha256=str(done["sha256"]),
            hub=dataset.hub
            | {"dropped": [clean_label(name, limit=200) for name in done["dropped"]]},
        )
    except (_Gone, FileNotFoundError):
        return "It was deleted while it was fetched."
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(home, ignore_errors=True)

    return ""


def _download(dataset: Dataset) -> dict[str, Any]:
    hub, heard = dataset.hub, time.monotonic()

    def on_news(news: dict[str, Any]) -> None:
        nonlocal heard
        heard = time.monotonic()

        if "revision" in news:
            told = {
                name: clean_label(str(news[name]), limit=100)
                for name in ("revision", "configuration", "split")
            }

            _write(
                dataset,
                hub=dataset.hub | told,
                licence=clean_label(str(news["licence"]), limit=100),
            )
        elif "rows" in news:
            _write(dataset, row_count=int(news["rows"]))

    def on_tick() -> None:
        if time.monotonic() - heard > STANDSTILL_SECONDS:
            raise ProgramProblem("The download stands still. Try again later.", passing=True)

    free = shutil.disk_usage(settings.HOME).free - settings.DISK_RESERVE_BYTES

    return program_run(
        "engine.programs.hub.dataset",
        *(hub["id"], hub["asked"], hub["configuration"], hub["split"], str(hub["most_rows"])),
        # Half of what is free: the hub's library keeps what it reads of some formats as well.
        *(str(dataset.path.with_suffix(".tmp")), str(max(0, free // 2))),
        seconds=None,
        memory_bytes=MEMORY_BYTES,
        environment=hub_environment(dataset.path.with_name("hub"), hub_token_for(dataset.owner)),
        on_news=on_news,
        on_tick=on_tick,
    )


def _write(dataset: Dataset, **values: Any) -> None:
    if not Dataset.objects.filter(pk=dataset.pk, status=Dataset.Status.CHECKING).update(**values):
        raise _Gone

    for name, value in values.items():
        setattr(dataset, name, value)
