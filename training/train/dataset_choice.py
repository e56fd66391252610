"""Which datasets a method can train on: one choice a dataset, whose versions are chosen beside
it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.urls import reverse

from datasets_app.models import Dataset
from datasets_app.readiness import readiness_of
from datasets_app.versions import made_by
from methods.models import TrainingMethod
from training.train.services import dataset_obstacle

Reader = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True)
class VersionChoice:
    dataset: Dataset
    label: str


@dataclass(frozen=True)
class DatasetChoice:
    """A dataset that a method can train on. dataset: the version that is chosen, else the newest
    that fits. versions: all that fit, the newest first."""

    dataset: Dataset
    versions: list[VersionChoice]


@dataclass(frozen=True)
class DatasetFit:
    """Whether a method can learn from a dataset. reason: why not; remedy: what would help, and its
    address."""

    fits: bool
    reason: str = ""
    remedy: str = ""
    url: str = ""


def datasets_visible(reader: Reader) -> list[Dataset]:
    """Every version of every dataset that is not archived, of a dataset the newest first."""
    return list(
        Dataset.objects.visible_to(reader).filter(archived_at=None).order_by("-version", "-pk")
    )


def choices_make(
    datasets: Iterable[Dataset], method: TrainingMethod, chosen: Dataset | None = None
) -> tuple[list[DatasetChoice], list[tuple[Dataset, str]]]:
    """(the datasets that the method can train on, (dataset, reason) of those that it cannot), each
    dataset once. One with a version that fits, fits."""
    families: dict[int, list[tuple[Dataset, str]]] = defaultdict(list)
    for dataset in datasets:
        families[dataset.family].append((dataset, dataset_obstacle(dataset, method)))

    choices, unfit = [], []
    for family, members in families.items():
        fitting = [dataset for dataset, reason in members if not reason]
        if not fitting:
            unfit.append(members[0])
            continue

        is_chosen = chosen is not None and chosen.family == family and chosen in fitting
        current = chosen if is_chosen and chosen is not None else fitting[0]
        choices.append(DatasetChoice(current, [_version(dataset) for dataset in fitting]))

    choices.sort(key=lambda choice: choice.versions[0].dataset.pk, reverse=True)
    return choices, unfit


def _version(dataset: Dataset) -> VersionChoice:
    made = made_by(dataset) or "as it was uploaded"
    return VersionChoice(
        dataset,
        f"v{dataset.version}: {made[:1].lower()}{made[1:]}, {dataset.good_row_count:,} rows",
    )


def fit_of(dataset: Dataset, method: TrainingMethod) -> DatasetFit:
    """Whether the method can learn from this version, and what would have to be done."""
    reason = dataset_obstacle(dataset, method)
    if not reason:
        return DatasetFit(True)
    if dataset.status != Dataset.Status.READY or dataset.archived_at is not None:
        return DatasetFit(False, reason, "Open the dataset", dataset.get_absolute_url())

    readiness = next(
        (item for item in readiness_of(dataset) if item["recipe"] == method.recipe), None
    )
    reason = (
        f"{method.name} cannot learn from {dataset.title}. Each row needs "
        f"{method.needs[:1].lower()}{method.needs[1:]}."
    )

    if readiness is not None and readiness["state"] == "repair":
        after = readiness["text"].removeprefix("After: ").rstrip(".")
        return DatasetFit(
            False, reason, f"Make a version: {after}", f"{dataset.get_absolute_url()}#ready"
        )

    return DatasetFit(False, reason, "Choose or upload another dataset", reverse("datasets:list"))
