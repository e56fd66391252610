"""The background work of a dataset's check: how it waits, and what ends it before its time."""

from __future__ import annotations

import shutil

from django.contrib.auth.models import User
from django.utils import timezone

from core.errors import UserError
from core.ownership import owner_check
from core.text import duration_words
from datasets_app.models import Dataset
from jobs.adding import job_add
from jobs.kinds import BROKE_OFF, CANCELLED, TOO_LONG
from jobs.services import job_cancel, jobs_ahead

# The kind of background work, see jobs.kinds.
CHECK = "dataset-check"
# A cautious guess, by which a check gets its lane.
READ_BYTES_A_SECOND = 5_000_000
MINUTES, HOURS = 600, 7200
CHECK_START_SECONDS = 600
CHECK_BYTES_A_SECOND = 500_000
CHECK_ENDINGS = {
    CANCELLED: "The check was cancelled. Check it again whenever you like.",
    TOO_LONG: (
        "This took longer than the {limit} that it may take, and was ended. Split the file into "
        "smaller ones, or ask your operator for more time (DEEPEXTENSION_BACKGROUND_MINUTES)."
    ),
    BROKE_OFF: (
        "The check crashed several times on this file. The file may be damaged, or need more memory "
        "than there is. Save it again, or split it into smaller ones."
    ),
}


def check_enqueue(dataset: Dataset) -> None:
    job_add(
        CHECK,
        dataset.pk,
        key=check_key(dataset.pk),
        name=dataset.title,
        owner_id=dataset.owner_id,
        expected_seconds=_expected_seconds(dataset),
        # What has to be fetched or made first has limits of its own for that.
        limit_seconds=check_seconds(dataset) if dataset.sha256 else None,
    )


def check_key(pk: int) -> str:
    return f"{CHECK}-{pk}"


def _expected_seconds(dataset: Dataset) -> float:
    if dataset.sha256:
        return dataset.size_bytes / READ_BYTES_A_SECOND

    if dataset.hub:
        # Nobody knows how much the hub has of it.
        return MINUTES if dataset.hub.get("most_rows") else HOURS

    parent_bytes = dataset.parent.size_bytes if dataset.parent else 0
    return 2 * parent_bytes / READ_BYTES_A_SECOND


def checks_ahead(dataset: Dataset) -> int | None:
    """How many others go before this dataset's check; None where it does not wait."""
    if dataset.status != Dataset.Status.CHECKING:
        return None

    return jobs_ahead(check_key(dataset.pk))


def check_seconds(dataset: Dataset) -> float:
    """How long reading the dataset's file may take."""
    return CHECK_START_SECONDS + dataset.size_bytes / CHECK_BYTES_A_SECOND


def dataset_check_cancel(*, dataset: Dataset, by: User) -> Dataset:
    """End the check of a dataset, or the making of its file. It can be checked again later.

    Raises UserError (wrong_state) where it is not being checked.
    """
    owner_check(dataset, by)

    if dataset.status != Dataset.Status.CHECKING:
        raise UserError("This dataset is not being checked.", code="wrong_state")

    if not job_cancel(check_key(dataset.pk)):
        # A moment between two of the queue's steps: nobody works on it, so it can be ended here.
        check_ended(dataset.pk, CANCELLED)

    dataset.refresh_from_db()
    return dataset


def check_ended(pk: int, reason: str, limit_seconds: float = 0) -> None:
    """Write down that a check ended before its time, for a reason of jobs.kinds."""
    dataset = Dataset.objects.filter(pk=pk, status=Dataset.Status.CHECKING).first()
    if dataset is None:
        return

    rows = Dataset.objects.filter(pk=pk, status=Dataset.Status.CHECKING)
    rows.update(
        status=Dataset.Status.FAILED,
        error=CHECK_ENDINGS[reason].format(limit=duration_words(limit_seconds)),
        check_attempts=0,
        checked_at=timezone.now(),
    )

    # What was being fetched or made, and would have been removed by whoever was ended.
    dataset.path.with_suffix(".tmp").unlink(missing_ok=True)
    shutil.rmtree(dataset.path.with_name("hub"), ignore_errors=True)
