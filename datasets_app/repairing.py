"""Repairs: each makes a new version of a dataset and leaves the old one as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, User
from django.db import transaction

from core.errors import UserError
from core.ownership import owner_check
from core.programs import ProgramProblem, program_run
from core.store import located_path, require_disk, stored_path
from core.text import clean_label, clean_text
from core.tokenizers import Tokenizer
from datasets_app.lengths import tokenizer_choose
from datasets_app.models import Dataset, RowChange
from datasets_app.services import check_enqueue, dataset_slug, next_version
from engine.doctor.combined_repairs import RowChanges
from engine.doctor.finding_kinds import REPAIRABLE, SEVERAL_LISTS
from engine.doctor.repair_kinds import (
    APPLY_CHANGES,
    EVALUATION_PART,
    LONG,
    MEND_SAFE,
    REPAIRS,
    SAFE,
    SPLIT,
    SPLIT_LISTS,
    TRAIN_PART,
    Repair,
    offered,
)
from engine.rows.formats import FORMATS

MEMORY_BYTES = 4 << 30
START_SECONDS = 600
BYTES_A_SECOND = 100_000
MOST_TOKENS = 1_000_000
# Of so many lists of a file a dataset is made each.
LISTS_MADE = 10
CUT_OFF = "Making this version took too long."


def repairs_of(dataset: Dataset) -> list[Repair]:
    """What is offered for this dataset, but for repairs of long rows, which need a limit; nothing
    while it is being checked or has no format."""
    if dataset.status == Dataset.Status.CHECKING:
        return []

    kinds = {finding["kind"] for finding in dataset.findings}
    if dataset.format not in FORMATS:
        # Which list is which can be told apart all the same.
        return [REPAIRS[SPLIT_LISTS]] if SEVERAL_LISTS in kinds else []

    if dataset.problem_count:
        kinds.add("problems")
    if any(source not in ("", name) for name, source in dataset.column_map.items()):
        kinds.add("names")

    repairs = offered(dataset.format, kinds)
    if not dataset.good_row_count:
        # Of no good row nothing can be made, but some bad ones can be made good.
        repairs = [
            repair
            for repair in repairs
            if kinds & (REPAIRABLE.keys() | {SEVERAL_LISTS}) & set(repair.mends)
        ]

    return repairs


def long_repairs_of(dataset: Dataset) -> list[Repair]:
    return [
        REPAIRS[slug]
        for slug in LONG
        if not REPAIRS[slug].formats or dataset.format in REPAIRS[slug].formats
    ]


def safe_repairs_of(dataset: Dataset) -> list[Repair]:
    """Those of the offered repairs that are safe, in the order in which they are applied; none
    where they were applied already and what is left is what they cannot mend."""
    if _is_mended(dataset):
        return []

    offered_slugs = {repair.slug for repair in repairs_of(dataset)}
    return [REPAIRS[slug] for slug in SAFE if slug in offered_slugs]


def _is_mended(dataset: Dataset) -> bool:
    """Whether all safe repairs were made on the way to this version, and no row was changed by hand
    since."""
    version: Dataset | None = dataset
    while version is not None:
        slug = version.repair.get("slug", "")
        if slug == MEND_SAFE:
            return True
        if slug == APPLY_CHANGES:
            return False

        version = version.parent

    return False


def dataset_repair(
    *, dataset: Dataset, by: User, repair: str, model: str = "", max_tokens: int = 0
) -> list[Dataset]:
    """Begin a repair in the background; returns the new datasets, two for a split. Raises UserError
    by field.

    repair: a slug of REPAIRS; MEND_SAFE for all that are safe at once, APPLY_CHANGES for the rows
    that were edited, set aside or put back. model, max_tokens: for repairs of long rows, the slug
    of the base model that counts and the limit."""
    owner_check(dataset, by)
    settings = _settings(dataset, by, repair, model, max_tokens)
    require_disk(2 * dataset.size_bytes)

    with transaction.atomic():
        made = [_begin(dataset, by, part | settings) for part in _parts(dataset, repair)]
        if repair == APPLY_CHANGES:
            dataset.row_changes.filter(version=None).update(version=made[0])

    return made


def _settings(
    dataset: Dataset, by: User, repair: str, model: str, max_tokens: int
) -> dict[str, Any]:
    """What goes along with the repair. Raises UserError where it is not offered."""
    is_ready = dataset.status == Dataset.Status.READY
    if repair in LONG and REPAIRS[repair] in long_repairs_of(dataset) and is_ready:
        tokenizer = _tokenizer(by, model)
        if not 1 <= max_tokens <= MOST_TOKENS:
            raise UserError({"max_tokens": [f"Give a limit from 1 to {MOST_TOKENS:,} tokens."]})

        return {
            "model": tokenizer.name,
            "model_path": stored_path(tokenizer.path),
            "max_tokens": max_tokens,
        }

    if repair == MEND_SAFE:
        if not safe_repairs_of(dataset):
            raise UserError({"repair": ["Nothing was found that can be mended safely."]})
    elif repair == APPLY_CHANGES:
        if not dataset.row_changes.filter(version=None).exists():
            raise UserError({"repair": ["No row was edited, set aside or put back."]})
    elif repair not in {item.slug for item in repairs_of(dataset)}:
        raise UserError({"repair": ["This repair is not offered for this dataset."]})

    return {}


def _parts(dataset: Dataset, repair: str) -> list[dict[str, Any]]:
    """What is to be made: one version by most repairs, two by a split, one of each list of a
    file."""
    if repair == SPLIT:
        return [{"slug": TRAIN_PART}, {"slug": EVALUATION_PART}]

    if repair == SPLIT_LISTS:
        finding = next(finding for finding in dataset.findings if finding["kind"] == SEVERAL_LISTS)
        return [{"slug": repair, "list": item["name"]} for item in finding["fields"][:LISTS_MADE]]

    return [{"slug": repair}]


def _tokenizer(by: AbstractBaseUser, model: str) -> Tokenizer:
    tokenizer = tokenizer_choose(by, model)
    if tokenizer is None:
        raise UserError(
            {"model": ["Tokens are counted with a base model, and there is no such one."]}
        )

    return tokenizer


def _begin(parent: Dataset, by: User, repair: dict[str, Any]) -> Dataset:
    """The new dataset, whose file is made in the background."""
    slug = repair["slug"]
    made = REPAIRS[slug].makes if slug in REPAIRS else ""
    dataset = Dataset(
        owner=parent.owner if parent.owner_id else by,
        name=parent.name,
        description=parent.description,
        file_type="jsonl",
        size_bytes=0,
        sha256="",
        # Not detected again from the columns: what somebody chose by hand holds for the version
        # too.
        format="" if slug == SPLIT_LISTS else made or parent.format,
        column_map={} if made or slug in ("rename_columns", SPLIT_LISTS) else parent.column_map,
        parent=parent,
        repair=repair,
    )

    if slug in (EVALUATION_PART, SPLIT_LISTS):
        # Rows to measure with, and each list of a file, are a dataset of their own.
        dataset.name = _name_on_its_own(parent, repair)
        dataset.slug = dataset_slug(dataset.name)
    else:
        next_version(dataset, parent)

    dataset.file_name = f"{dataset.slug}.jsonl"
    dataset.save()
    dataset.labels.set(parent.labels.all())
    shutil.rmtree(dataset.path.parent, ignore_errors=True)
    dataset.path.parent.mkdir(parents=True, mode=0o700)
    check_enqueue(dataset)

    return dataset


def _name_on_its_own(parent: Dataset, repair: dict[str, Any]) -> str:
    if repair["slug"] == EVALUATION_PART:
        return f"{parent.name[:100]} (to measure with)"

    return f"{parent.name[:70]} ({clean_label(repair['list'], limit=40)})"


def repair_apply(dataset: Dataset) -> str:
    """Write the file of a dataset that is yet to be made of its parent; returns why it cannot be,
    or nothing.

    May be broken off and begun again: the file is renamed when it is whole.
    """
    parent, repair = dataset.parent, dataset.repair
    if parent is None or not parent.path.is_file():
        return "What it was to be made of is gone."

    temporary = dataset.path.with_suffix(".tmp")
    options: tuple[str, ...] = ()

    if "max_tokens" in repair:
        options = (
            "--model",
            str(located_path(repair["model_path"])),
            "--max-tokens",
            str(repair["max_tokens"]),
        )

    if "list" in repair:
        options = ("--list", repair["list"])
    if repair["slug"] == APPLY_CHANGES:
        options = ("--changes", str(_changes_write(dataset)))

    try:
        done = program_run(
            "engine.doctor.repairs",
            *(
                "--data",
                str(parent.path),
                "--file-type",
                parent.file_type,
                "--format",
                parent.format,
            ),
            *(
                "--column-map",
                json.dumps(parent.column_map),
                "--repair",
                repair["slug"],
                "--out",
                str(temporary),
            ),
            *options,
            seconds=START_SECONDS + parent.size_bytes / BYTES_A_SECOND,
            memory_bytes=MEMORY_BYTES,
            too_long=CUT_OFF,
            environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            on_report=lambda news: _told(dataset, news),
        )
    except ProgramProblem as problem:
        temporary.unlink(missing_ok=True)
        return str(problem)

    temporary.replace(dataset.path)
    examples = [
        {
            "line": item["line"],
            "before": clean_text(item["before"]),
            "after": clean_text(item["after"]),
        }
        for item in done["examples"]
    ]

    values = {
        "size_bytes": int(done["size_bytes"]),
        "sha256": str(done["sha256"]),
        "repair": repair | {"counts": done["counts"], "examples": examples, "steps": done["steps"]},
    }

    Dataset.objects.filter(pk=dataset.pk).update(**values)

    return ""


def _changes_write(dataset: Dataset) -> Path:
    """The changes that make this version, as a file for the program that applies them."""
    changes = RowChanges()
    for change in dataset.applied_changes.order_by("pk"):
        if change.action == RowChange.Action.EDIT:
            changes.edited[change.line] = change.values or {}
        elif change.action == RowChange.Action.SET_ASIDE:
            changes.set_aside.add(change.line)
        else:
            changes.put_back.append(change.values or {})

    path = dataset.path.with_name("changes.json")
    changes.write(path)
    return path


def _told(dataset: Dataset, news: dict[str, Any]) -> None:
    if "rows" in news:
        Dataset.objects.filter(pk=dataset.pk).update(row_count=int(news["rows"]))
