"""Repairs: each makes a new version of a dataset and leaves the old one as it is."""

from __future__ import annotations

import json
import shutil
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
from datasets_app.models import Dataset
from datasets_app.services import check_enqueue, slug_free
from engine.doctor import MENDABLE, SEVERAL_LISTS
from engine.formats import FORMATS
from engine.recipes.registry import RECIPES
from engine.repairs import (
    EVALUATION_PART,
    LONG,
    REPAIRS,
    SPLIT,
    SPLIT_LISTS,
    TRAIN_PART,
    Repair,
    offered,
)

MEMORY_BYTES = 4 << 30
START_SECONDS = 600
BYTES_A_SECOND = 100_000
MOST_TOKENS = 1_000_000
# Of so many lists of a file a dataset is made each.
LISTS_MADE = 10
CUT_OFF = "Making this version took too long."


def repairs_of(dataset: Dataset) -> list[Repair]:
    """What is offered for this dataset, but for repairs of long rows, which need a limit; nothing while it is being
    checked or has no format."""
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
        repairs = [repair for repair in repairs if kinds & (MENDABLE.keys() | {SEVERAL_LISTS}) & set(repair.mends)]
    return repairs


def long_repairs_of(dataset: Dataset) -> list[Repair]:
    return [REPAIRS[slug] for slug in LONG if not REPAIRS[slug].formats or dataset.format in REPAIRS[slug].formats]


def readiness_of(dataset: Dataset) -> list[dict[str, Any]]:
    """For each recipe {"recipe", "title", "state": ready, repair or no, "text", "repair": slug or ""}."""
    repairs = repairs_of(dataset)
    return [_readiness(dataset, name, repairs) for name in RECIPES]


def _readiness(dataset: Dataset, name: str, repairs: list[Repair]) -> dict[str, Any]:
    recipe = RECIPES[name]
    found: dict[str, Any] = {"recipe": name, "title": recipe.title, "repair": ""}
    if dataset.format in recipe.formats and dataset.good_row_count:
        kinds = {finding["kind"] for finding in dataset.findings}
        if name == "kto" and "one_label" in kinds:
            return found | {"state": "no", "text": "All answers are rated alike: there is nothing to tell apart."}
        bad = f", {dataset.problem_count:,} bad ones are left out" if dataset.problem_count else ""
        rows = "1 row" if dataset.good_row_count == 1 else f"{dataset.good_row_count:,} rows"
        return found | {"state": "ready", "text": f"{rows}{bad}."}
    if dataset.format in recipe.formats:
        return found | {"state": "no", "text": _why_no_row(dataset)}
    repair = next((repair for repair in repairs if repair.makes in recipe.formats), None)
    if repair is not None and dataset.good_row_count:
        return found | {"state": "repair", "text": f"After: {repair.title.lower()}.", "repair": repair.slug}
    needed = " or ".join(FORMATS[slug].title.lower() for slug in recipe.formats[:2])
    return found | {"state": "no", "text": f"Needs rows of another kind: {needed}."}


def _why_no_row(dataset: Dataset) -> str:
    """Why nothing can be learned from rows of the right kind."""
    kinds = {finding["kind"]: finding["count"] for finding in dataset.findings}
    if kinds.get("media") == dataset.row_count:
        return "Its rows hold pictures, sound or video, which cannot be trained on yet."
    return "None of its rows can be learned from."


def family_of(dataset: Dataset) -> list[Dataset]:
    """What was uploaded, and every version that was made of it, the oldest first."""
    root = dataset
    while root.parent is not None:
        root = root.parent
    family = [root]
    for member in family:
        family += list(member.repaired.order_by("pk"))
    return sorted(family, key=lambda member: (member.version, member.pk))


def dataset_repair(*, dataset: Dataset, by: User, repair: str, model: str = "", max_tokens: int = 0) -> list[Dataset]:
    """Begin a repair in the background; returns the new datasets, two for a split. Raises UserError by field.

    model, max_tokens: for repairs of long rows, the slug of the base model that counts and the limit.
    """
    owner_check(dataset, by)
    settings: dict[str, Any] = {}
    if repair in LONG and REPAIRS[repair] in long_repairs_of(dataset) and dataset.status == Dataset.Status.READY:
        tokenizer = _tokenizer(by, model)
        if not 1 <= max_tokens <= MOST_TOKENS:
            raise UserError({"max_tokens": [f"Give a limit from 1 to {MOST_TOKENS:,} tokens."]})
        settings = {"model": tokenizer.name, "model_path": stored_path(tokenizer.path), "max_tokens": max_tokens}
    elif repair not in {item.slug for item in repairs_of(dataset)}:
        raise UserError({"repair": ["This repair is not offered for this dataset."]})
    require_disk(2 * dataset.size_bytes)
    with transaction.atomic():
        return [_begin(dataset, by, begun | settings) for begun in _parts(dataset, repair)]


def _parts(dataset: Dataset, repair: str) -> list[dict[str, Any]]:
    """What is to be made: one version by most repairs, two by a split, one of each list of a file."""
    if repair == SPLIT:
        return [{"slug": TRAIN_PART}, {"slug": EVALUATION_PART}]
    if repair == SPLIT_LISTS:
        finding = next(finding for finding in dataset.findings if finding["kind"] == SEVERAL_LISTS)
        return [{"slug": repair, "list": item["name"]} for item in finding["fields"][:LISTS_MADE]]
    return [{"slug": repair}]


def _tokenizer(by: AbstractBaseUser, model: str) -> Tokenizer:
    tokenizer = tokenizer_choose(by, model)
    if tokenizer is None:
        raise UserError({"model": ["Tokens are counted with a base model, and there is no such one."]})
    return tokenizer


def _begin(parent: Dataset, by: User, repair: dict[str, Any]) -> Dataset:
    family, slug = family_of(parent), repair["slug"]
    version = max(member.version for member in family) + 1
    file_name = f"{family[0].slug[:100]}-v{version}"
    made = REPAIRS[slug].makes if slug in REPAIRS else ""
    name = parent.name
    if slug == EVALUATION_PART:
        name = f"{parent.name[:100]} (to measure with)"
    if slug == SPLIT_LISTS:
        name = f"{parent.name[:70]} ({clean_label(repair['list'], limit=40)})"
    dataset = Dataset(
        owner=parent.owner if parent.owner_id else by,
        name=name,
        slug=slug_free(file_name),
        description=parent.description,
        file_name=f"{file_name}.jsonl",
        file_type="jsonl",
        size_bytes=0,
        sha256="",
        # Not told from the columns anew: what somebody chose by hand holds for the version too.
        format="" if slug == SPLIT_LISTS else made or parent.format,
        column_map={} if made or slug in ("rename_columns", SPLIT_LISTS) else parent.column_map,
        parent=parent,
        version=version,
        repair=repair,
    )
    dataset.save()
    dataset.labels.set(parent.labels.all())
    shutil.rmtree(dataset.path.parent, ignore_errors=True)
    dataset.path.parent.mkdir(parents=True, mode=0o700)
    check_enqueue(dataset)
    return dataset


def repair_apply(dataset: Dataset) -> str:
    """Write the file of a dataset that is yet to be made of its parent; returns why it cannot be, or nothing.

    May be broken off and begun again: the file is renamed when it is whole.
    """
    parent, repair = dataset.parent, dataset.repair
    if parent is None or not parent.path.is_file():
        return "What it was to be made of is gone."
    temporary = dataset.path.with_suffix(".tmp")
    options: tuple[str, ...] = ()
    if "max_tokens" in repair:
        options = ("--model", str(located_path(repair["model_path"])), "--max-tokens", str(repair["max_tokens"]))
    if "list" in repair:
        options = ("--list", repair["list"])
    try:
        done = program_run(
            "engine.repairs",
            *("--data", str(parent.path), "--file-type", parent.file_type, "--format", parent.format),
            *("--column-map", json.dumps(parent.column_map), "--repair", repair["slug"], "--out", str(temporary)),
            *options,
            seconds=START_SECONDS + parent.size_bytes / BYTES_A_SECOND,
            memory_bytes=MEMORY_BYTES,
            too_long=CUT_OFF,
            environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            on_news=lambda news: _told(dataset, news),
        )
    except ProgramProblem as problem:
        temporary.unlink(missing_ok=True)
        return str(problem)
    temporary.replace(dataset.path)
    examples = [
        {"line": item["line"], "before": clean_text(item["before"]), "after": clean_text(item["after"])}
        for item in done["examples"]
    ]
    values = {
        "size_bytes": int(done["size_bytes"]),
        "sha256": str(done["sha256"]),
        "repair": repair | {"counts": done["counts"], "examples": examples},
    }
    Dataset.objects.filter(pk=dataset.pk).update(**values)
    return ""


def _told(dataset: Dataset, news: dict[str, Any]) -> None:
    if "rows" in news:
        Dataset.objects.filter(pk=dataset.pk).update(row_count=int(news["rows"]))
