"""Repairs: each makes a new version of a dataset and leaves the old one as it is."""

from __future__ import annotations

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
from datasets_app.preview import file_options
from datasets_app.services import check_enqueue, dataset_slug, folder_make, next_version
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
# A dataset is made of each list of a file, up to this many.
LISTS_MADE = 10
TOO_LONG = "Making this version took too long."


def repairs_of(dataset: Dataset) -> list[Repair]:
    """What is offered for this dataset, except repairs of long rows, which need a limit; nothing
    while it is being checked or has no format."""
    if dataset.status == Dataset.Status.CHECKING:
        return []

    kinds = {finding["kind"] for finding in dataset.findings}
    if dataset.format not in FORMATS:
        # Several lists can be told from each other without a format.
        return [REPAIRS[SPLIT_LISTS]] if SEVERAL_LISTS in kinds else []

    if dataset.problem_count:
        kinds.add("problems")
    if any(source not in ("", name) for name, source in dataset.column_map.items()):
        kinds.add("names")

    repairs = offered(dataset.format, kinds)
    if dataset.good_row_count:
        return repairs

    # Without a good row, only what makes bad rows good is of use.
    usable = kinds & {*REPAIRABLE, SEVERAL_LISTS}
    return [repair for repair in repairs if usable & set(repair.mends)]


def long_repairs_of(dataset: Dataset) -> list[Repair]:
    """Repairs of rows that are too long, for rows of this format."""
    repairs = [REPAIRS[slug] for slug in LONG]
    return [repair for repair in repairs if not repair.formats or dataset.format in repair.formats]


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
        versions = [_begin(dataset, by, part | settings) for part in _parts(dataset, repair)]
        if repair == APPLY_CHANGES:
            dataset.row_changes.filter(version=None).update(version=versions[0])

    return versions


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
    # Not detected again from the columns: what somebody chose by hand holds for the version too.
    format_slug = parent.format
    column_map = parent.column_map

    if slug in REPAIRS and REPAIRS[slug].makes:
        format_slug = REPAIRS[slug].makes
        column_map = {}
    if slug == SPLIT_LISTS:
        format_slug = ""
    if slug in ("rename_columns", SPLIT_LISTS):
        column_map = {}

    dataset = Dataset(
        owner=parent.owner if parent.owner_id else by,
        name=parent.name,
        description=parent.description,
        file_type="jsonl",
        size_bytes=0,
        sha256="",
        format=format_slug,
        column_map=column_map,
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
    folder_make(dataset)
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
    parent = dataset.parent
    if parent is None or not parent.path.is_file():
        return "The version that it was to be made from was deleted."

    temporary = dataset.path.with_suffix(".tmp")

    def on_news(news: dict[str, Any]) -> None:
        if "rows" in news:
            Dataset.objects.filter(pk=dataset.pk).update(row_count=int(news["rows"]))

    try:
        report = program_run(
            "engine.doctor.repairs",
            *file_options(parent),
            "--repair",
            dataset.repair["slug"],
            "--out",
            str(temporary),
            *_repair_options(dataset),
            seconds=START_SECONDS + parent.size_bytes / BYTES_A_SECOND,
            memory_bytes=MEMORY_BYTES,
            too_long=TOO_LONG,
            environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            on_report=on_news,
        )
    except ProgramProblem as problem:
        temporary.unlink(missing_ok=True)
        return str(problem)

    temporary.replace(dataset.path)
    Dataset.objects.filter(pk=dataset.pk).update(
        size_bytes=int(report["size_bytes"]),
        sha256=str(report["sha256"]),
        repair=dataset.repair | _record(report),
    )

    return ""


def _repair_options(dataset: Dataset) -> tuple[str, ...]:
    """Options of the program that only this kind of repair has."""
    repair = dataset.repair
    if repair["slug"] == APPLY_CHANGES:
        return ("--changes", str(_changes_write(dataset)))
    if "list" in repair:
        return ("--list", repair["list"])

    if "max_tokens" in repair:
        model_folder = located_path(repair["model_path"])
        return ("--model", str(model_folder), "--max-tokens", str(repair["max_tokens"]))

    return ()


def _record(report: dict[str, Any]) -> dict[str, Any]:
    """What is kept of the program's report, beside what was asked for."""
    examples = [
        {
            "line": example["line"],
            "before": clean_text(example["before"]),
            "after": clean_text(example["after"]),
        }
        for example in report["examples"]
    ]

    return {"counts": report["counts"], "examples": examples, "steps": report["steps"]}


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
