"""What the background workers call. A job takes an id and calls a service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.limits import process_limit

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from jobs.models import Job

# What a check may take beyond what its process holds already: a hostile file must not take the
# machine down.
MEMORY_BYTES = 2 << 30


def check_dataset(dataset_id: int) -> str:
    """Returns why the dataset cannot be used, or nothing."""
    from datasets_app.check_queue import check_seconds
    from datasets_app.checking import dataset_check
    from datasets_app.models import Dataset

    # Programs that make the file first have limits of their own.
    dataset_check(
        dataset_id,
        lambda dataset: limit_process(seconds=int(check_seconds(dataset))),
    )

    failed = Dataset.objects.filter(pk=dataset_id, status=Dataset.Status.FAILED)
    return failed.values_list("error", flat=True).first() or ""


def count_tokens(lengths_id: int) -> str:
    """Returns why there are no counts, or nothing."""
    from datasets_app.lengths import lengths_count
    from datasets_app.models import TokenLengths

    lengths_count(lengths_id)
    return TokenLengths.objects.filter(pk=lengths_id).values_list("error", flat=True).first() or ""


def check_ended(dataset_id: int, *, reason: str, limit_seconds: float) -> None:
    from datasets_app import check_queue

    check_queue.check_ended(dataset_id, reason, limit_seconds)


def count_ended(lengths_id: int, *, reason: str, limit_seconds: float) -> None:
    from datasets_app.lengths import count_ended

    count_ended(lengths_id, reason, limit_seconds)


def check_addresses(jobs: Sequence[Job], reader: User) -> dict[int, str]:
    from datasets_app.models import Dataset
    from jobs.kinds import subjects_of

    ids = subjects_of(jobs)
    datasets = Dataset.objects.visible_to(reader).only("pk").in_bulk(list(ids.values()))
    return {number: datasets[pk].get_absolute_url() for number, pk in ids.items() if pk in datasets}


def count_addresses(jobs: Sequence[Job], reader: User) -> dict[int, str]:
    from datasets_app.models import Dataset, TokenLengths
    from jobs.kinds import subjects_of

    ids = subjects_of(jobs)
    counts = TokenLengths.objects.filter(dataset__in=Dataset.objects.visible_to(reader))
    counted = counts.select_related("dataset").only("dataset__id").in_bulk(list(ids.values()))
    return {
        number: counted[pk].dataset.get_absolute_url()
        for number, pk in ids.items()
        if pk in counted
    }


def check_keys(row: Any) -> list[str]:
    from datasets_app.check_queue import check_key
    from datasets_app.models import Dataset

    return [check_key(row.pk)] if isinstance(row, Dataset) else []


def count_keys(row: Any) -> list[str]:
    from datasets_app.lengths import count_key
    from datasets_app.models import Dataset

    if not isinstance(row, Dataset):
        return []

    return [count_key(lengths) for lengths in row.token_lengths.all()]


def limit_process(*, seconds: int) -> None:
    """Bound the memory and processor time of this process. The worker has forked it for this one
    job."""
    process_limit(memory_bytes=MEMORY_BYTES, seconds=seconds)
