"""Which datasets a method can train on: one choice for each dataset, with its versions."""

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
    """Every version of every dataset that is not archived, newest versions first."""
    datasets = Dataset.objects.visible_to(reader).filter(archived_at=None)
    return list(datasets.order_by("-version", "-pk"))


def choices_make(
    datasets: Iterable[Dataset], method: TrainingMethod, chosen: Dataset | None = None
) -> tuple[list[DatasetChoice], list[tuple[Dataset, str]]]:
    """(the datasets that the method can train on, (dataset, reason) of those that it cannot), each
    dataset once. A dataset fits where one of its versions does."""
    families: dict[int, list[tuple[Dataset, str]]] = defaultdict(list)
    for dataset in datasets:
        families[dataset.family].append((dataset, dataset_obstacle(dataset, method)))

    choices: list[DatasetChoice] = []
    unfit: list[tuple[Dataset, str]] = []

    for versions in families.values():
        fitting = [dataset for dataset, reason in versions if not reason]
        if not fitting:
            unfit.append(versions[0])
            continue

        current = fitting[0]
        if chosen is not None and chosen in fitting:
            current = chosen

        labelled = [_version(dataset) for dataset in fitting]
        choices.append(DatasetChoice(current, labelled))

    choices.sort(key=lambda choice: choice.versions[0].dataset.pk, reverse=True)
    return choices, unfit


def _version(dataset: Dataset) -> VersionChoice:
    origin = _uncapitalised(made_by(dataset) or "as it was uploaded")
    label = f"v{dataset.version}: {origin}, {dataset.good_row_count:,} rows"
    return VersionChoice(dataset, label)


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


def fit_of(dataset: Dataset, method: TrainingMethod) -> DatasetFit:
    """Whether the method can learn from this version, and what would have to be done."""
    reason = dataset_obstacle(dataset, method)
    if not reason:
        return DatasetFit(True)
    if dataset.status != Dataset.Status.READY or dataset.archived_at is not None:
        return DatasetFit(False, reason, "Open the dataset", dataset.get_absolute_url())

    needs = _uncapitalised(method.needs)
    reason = f"{method.name} cannot learn from {dataset.title}. Each row needs {needs}."

    for readiness in readiness_of(dataset):
        if readiness["recipe"] == method.recipe and readiness["state"] == "repair":
            repairs = readiness["text"].removeprefix("After: ").rstrip(".")
            remedy = f"Make a version: {repairs}"
            return DatasetFit(False, reason, remedy, f"{dataset.get_absolute_url()}#ready")

    return DatasetFit(False, reason, "Choose or upload another dataset", reverse("datasets:list"))
