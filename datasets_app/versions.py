"""The versions of a dataset, for its menu, for lists and for the API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User

from core.api import by_id_or_slug
from core.errors import UserError
from core.ownership import owner_check
from datasets_app.models import Dataset
from engine.doctor.repair_kinds import COMBINED_TITLES, EVALUATION_PART, REPAIRS, SPLIT, TRAIN_PART

Reader = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True)
class Version:
    """made_by: what made it, in words."""

    dataset: Dataset
    made_by: str
    is_latest: bool


def made_by(dataset: Dataset) -> str:
    """What made this version, in words; "" for an upload."""
    slug = dataset.repair.get("slug", "")
    if slug in COMBINED_TITLES:
        return COMBINED_TITLES[slug]
    if slug in (TRAIN_PART, EVALUATION_PART):
        slug = SPLIT

    return REPAIRS[slug].title if slug in REPAIRS else ""


def version_of(by: User, key: str) -> Dataset | None:
    """The dataset that an upload is to be the next version of, None for an empty key.

    Raises UserError where there is no such dataset, PermissionDenied where `by` may not change it.
    """
    if not key:
        return None

    dataset = by_id_or_slug(Dataset.objects.visible_to(by), key)
    if dataset is None:
        raise UserError({"version_of": ["There is no such dataset."]})

    owner_check(dataset, by)
    return dataset


def steps_of(dataset: Dataset) -> list[tuple[str, int]]:
    """(title of the repair, rows that it changed) of a version that several repairs made at
    once."""
    rows_changed: dict[str, int] = dataset.repair.get("steps") or {}
    steps = []
    for slug, rows in rows_changed.items():
        if slug in REPAIRS:
            steps.append((REPAIRS[slug].title, rows))

    return steps


def versions_of(datasets: Iterable[Dataset], reader: Reader) -> dict[int, list[Version]]:
    """{family: its versions that this reader may see, the newest first}, by one query."""
    families = {dataset.family for dataset in datasets}
    members = Dataset.objects.visible_to(reader).families(families)
    by_family: dict[int, list[Dataset]] = defaultdict(list)

    for member in members.defer("findings", "columns"):
        by_family[member.family].append(member)

    return {family: _versions(rows) for family, rows in by_family.items()}


def _versions(members: list[Dataset]) -> list[Version]:
    """`members`: all of one family, the newest first."""
    usable = [member for member in members if member.status != Dataset.Status.FAILED]
    latest = usable[0] if usable else members[0]

    return [Version(member, made_by(member), member.pk == latest.pk) for member in members]


def versions_attach(datasets: Iterable[Dataset], reader: Reader) -> list[Dataset]:
    """The datasets, each with `versions`: all of its family that this reader may see."""
    rows = list(datasets)
    by_family = versions_of(rows, reader)

    for dataset in rows:
        dataset.versions = by_family.get(dataset.family, [])  # type: ignore[attr-defined]

    return rows
