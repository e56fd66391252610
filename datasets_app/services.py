"""Everything that changes a dataset. Pages, API, admin and jobs call these."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone

from core.errors import UserError
from core.listing import slug_free
from core.ownership import deletion_check, owner_check
from core.text import clean_label, clean_text
from core.upload import ReceivedFile, leftovers_remove
from datasets_app.check_queue import check_enqueue, check_key, dataset_check_cancel
from datasets_app.lengths import lengths_enqueue, lengths_reconcile, token_lengths_get
from datasets_app.models import Dataset, Label
from engine.rows.formats import FORMATS, Format
from engine.rows.read import FileProblem, detect_file_type
from jobs.services import job_drop

__all__ = [
    "check_enqueue",
    "dataset_archive",
    "dataset_check_again",
    "dataset_check_cancel",
    "dataset_check_retry",
    "dataset_create",
    "dataset_delete",
    "dataset_restore",
    "dataset_update",
    "datasets_reconcile",
    "labels_set",
    "lengths_enqueue",
    "token_lengths_get",
    "uses_count",
]

# Names under the API's address, and so no slugs.
RESERVED_SLUGS = {"import"}
LABELS_LIMIT = 20
DESCRIPTION_LIMIT = 20_000


def dataset_create(
    *,
    owner: User | None,
    file: ReceivedFile,
    name: str = "",
    description: str = "",
    labels: Iterable[str] = (),
    version_of: Dataset | None = None,
) -> Dataset:
    """Keep an uploaded file and have it checked in the background. Without a name it takes the
    file's. Without an owner only operators see it, unless they share it. Raises UserError by field;
    the file is then gone.

    version_of: the dataset that it becomes the next version of; it keeps that one's name and owner,
    and its description and labels where none are given."""
    file_name = clean_label(str(file.name or ""), limit=255)
    label_names = labels_clean(labels)

    try:
        assert file.path is not None
        file_type = detect_file_type(file.path, file_name)
    except FileProblem as problem:
        file.close()
        raise UserError({"file": [str(problem)]}) from problem

    if version_of is not None:
        owner, name = version_of.owner, version_of.name
        description = description or version_of.description
        label_names = label_names or [label.name for label in version_of.labels.all()]

    # The last part of what may be a path, of whichever system.
    stem = PurePosixPath(file_name.replace("\\", "/")).stem
    name = clean_label(name, limit=120) or clean_label(stem, limit=120) or "Dataset"
    dataset = Dataset(
        owner=owner,
        name=name,
        description=clean_text(description)[:DESCRIPTION_LIMIT],
        file_name=file_name,
        file_type=file_type,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
    )

    try:
        with transaction.atomic():
            dataset.slug = dataset_slug(name)
            if version_of is not None:
                next_version(dataset, version_of)

            dataset.save()
            dataset.labels.set(_label_rows(label_names))
            folder_make(dataset)
            file.keep_as(dataset.path)
            check_enqueue(dataset)
    except BaseException:
        if dataset.pk is not None:
            shutil.rmtree(dataset.path.parent, ignore_errors=True)

        raise
    finally:
        file.close()

    return dataset


def next_version(dataset: Dataset, of: Dataset) -> None:
    """Make a new row, which is not saved yet, the next version of the dataset that `of` is a
    version of."""
    family = Dataset.objects.families([of.family])
    dataset.root = Dataset.objects.get(pk=of.family)
    dataset.version = family[0].version + 1
    dataset.slug = dataset_slug(f"{dataset.root.slug[:100]}-v{dataset.version}")


def dataset_slug(name: str) -> str:
    """A slug that no dataset has."""
    return slug_free(Dataset.objects.all(), name, fallback="dataset", reserved=RESERVED_SLUGS)


def folder_make(dataset: Dataset) -> None:
    """The empty folder of a dataset whose row was just made. What lies there already is left over
    from a database that was set back, and is no dataset's."""
    folder = dataset.path.parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


def dataset_update(
    *,
    dataset: Dataset,
    by: User,
    name: str | None = None,
    description: str | None = None,
    labels: Iterable[str] | None = None,
    format: str | None = None,
    column_map: dict[str, str] | None = None,
) -> Dataset:
    """Change what people call it, or how its columns are read; the latter has the file checked
    again.

    Raises UserError by field.
    """
    owner_check(dataset, by)
    values: dict[str, Any] = {}

    if name is not None:
        values["name"] = clean_label(name, limit=120)
        if not values["name"]:
            raise UserError({"name": ["Give the dataset a name."]})

    if description is not None:
        values["description"] = clean_text(description)[:DESCRIPTION_LIMIT]

    with transaction.atomic():
        if labels is not None:
            labels_set(dataset=dataset, by=by, labels=labels)

        if values:
            # Not save(): a running check writes other fields of this row at the same time.
            Dataset.objects.filter(pk=dataset.pk).update(**values)

        if format is not None or column_map is not None:
            columns_set(dataset, dataset.format if format is None else format, column_map or {})

    dataset.refresh_from_db()
    return dataset


def columns_set(dataset: Dataset, format: str, column_map: dict[str, str]) -> None:
    """Read the file in `format`, with {the format's column: the file's column, or "" for none}, and
    check it again. Raises UserError by field."""
    if dataset.status == Dataset.Status.CHECKING:
        raise UserError(
            {"format": ["The file is still being checked. Try again in a moment."]},
            code="wrong_state",
        )

    if uses_count(dataset):
        raise UserError(
            {
                "format": [
                    "A train has used this dataset, so its columns stay as they are. Upload the "
                    "file again."
                ]
            }
        )

    if format not in FORMATS:
        raise UserError(
            {"format": [f"There is no such format. The formats are {', '.join(FORMATS)}."]}
        )

    sources = _sources(dataset, FORMATS[format], column_map)
    dataset_check_again(dataset=dataset, format=format, column_map=sources)


def _sources(dataset: Dataset, format: Format, column_map: dict[str, str]) -> dict[str, str]:
    """{the format's column: the file's column} for all that is read. Raises UserError."""
    known = (*format.columns, *format.optional)
    there = {column["name"] for column in dataset.columns}
    sources = {name: name for name in known if name in there}

    for column, source in column_map.items():
        problem = ""
        if column not in known:
            problem = f"{format.title} has no column {column[:80]!r}."
        elif source and source not in there:
            problem = f"The file has no column {str(source)[:80]!r}."

        if problem:
            raise UserError({"column_map": [problem]})

        # A column of the format's own name is read unless the map says that it is not.
        if source or column in there:
            sources[column] = source

    missing = [name for name in format.columns if not sources.get(name)]
    if missing:
        names = " and which is ".join(missing)
        raise UserError({"column_map": [f"Say which column of the file is {names}."]})

    return sources


def uses_count(dataset: Dataset) -> int:
    """How many rows of other apps point at it: trains that learned from it or were measured with
    it."""
    own = {
        "problems",
        "token_lengths",
        "repaired",
        "later_versions",
        "row_changes",
        "applied_changes",
    }

    count = 0
    for relation in Dataset._meta.related_objects:
        if relation.one_to_many and relation.get_accessor_name() not in own:
            users = relation.related_model._base_manager
            count += users.filter(**{relation.field.name: dataset.pk}).count()

    return count


def dataset_check_again(
    *, dataset: Dataset, format: str = "", column_map: dict[str, str] | None = None
) -> None:
    """Back to checking, with `format` set by hand or, empty, detected from the columns."""
    with transaction.atomic():
        Dataset.objects.filter(pk=dataset.pk).exclude(status=Dataset.Status.CHECKING).update(
            status=Dataset.Status.CHECKING,
            error="",
            format=format,
            column_map=column_map or {},
            checked_bytes=0,
            check_attempts=0,
        )

        dataset.token_lengths.all().delete()
        check_enqueue(dataset)


def dataset_check_retry(*, dataset: Dataset, by: User) -> Dataset:
    """Check a dataset again that cannot be used. Raises UserError (wrong_state) for any other."""
    owner_check(dataset, by)

    if dataset.status != Dataset.Status.FAILED:
        raise UserError(
            "Only a dataset that cannot be used can be checked again.", code="wrong_state"
        )

    dataset_check_again(dataset=dataset, format=dataset.format, column_map=dataset.column_map)
    dataset.refresh_from_db()
    return dataset


def labels_clean(labels: Iterable[str]) -> list[str]:
    """One of each, upper and lower case alike. Raises UserError for too many."""
    by_lower = {}
    for label in labels:
        name = clean_label(label, limit=50)
        if name:
            by_lower[name.lower()] = name

    if len(by_lower) > LABELS_LIMIT:
        raise UserError({"labels": [f"At most {LABELS_LIMIT} labels."]})

    return list(by_lower.values())


def _label_rows(names: Iterable[str]) -> list[Label]:
    rows = []
    for name in names:
        row = Label.objects.filter(name__iexact=name).first()
        if row is None:
            row, _ = Label.objects.get_or_create(name=name)

        rows.append(row)

    return rows


def labels_set(*, dataset: Dataset, by: User, labels: Iterable[str]) -> None:
    """Exactly these labels; a label that no dataset has any more is gone from the lists."""
    owner_check(dataset, by)
    with transaction.atomic():
        dataset.labels.set(_label_rows(labels_clean(labels)))
        Label.objects.filter(datasets=None).delete()


def dataset_archive(*, dataset: Dataset, by: User) -> Dataset:
    """No longer offered and out of the lists; trains that used it keep it. Doing so twice is
    harmless."""
    owner_check(dataset, by)
    Dataset.objects.filter(pk=dataset.pk, archived_at=None).update(archived_at=timezone.now())
    dataset.refresh_from_db()

    return dataset


def dataset_restore(*, dataset: Dataset, by: User) -> Dataset:
    """Back into the lists and the choices."""
    owner_check(dataset, by)
    Dataset.objects.filter(pk=dataset.pk).update(archived_at=None)
    dataset.refresh_from_db()

    return dataset


def dataset_delete(*, dataset: Dataset, by: User) -> None:
    """Remove this version with its file; other versions stay. Raises UserError where a train used
    it, or where a version was made of it."""
    deletion_check(dataset, by)

    if dataset.repaired.exists() or dataset.later_versions.exists():
        raise UserError(
            f"Other versions were made from {dataset.title}, so it is kept. Archive it instead.",
            code="in_use",
        )

    pk, folder = dataset.pk, dataset.path.parent
    try:
        with transaction.atomic():
            dataset.delete()
            Label.objects.filter(datasets=None).delete()
            transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))
    except ProtectedError as error:
        raise UserError(
            "A train used this dataset, or a running chain or sweep will, so it stays on record. "
            "Archive it instead.",
            code="in_use",
        ) from error

    job_drop(check_key(pk))


def datasets_reconcile() -> None:
    """Put checks and counts that wait onto the queue again, for a queue that forgot them; one that
    is there already is left as it is."""
    for dataset in Dataset.objects.filter(status=Dataset.Status.CHECKING).order_by("pk"):
        check_enqueue(dataset)

    lengths_reconcile()
    leftovers_remove()
