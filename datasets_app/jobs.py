"""What the background workers call. A job takes an id and calls a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.limits import process_limit

if TYPE_CHECKING:
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


def check_address(job: Job) -> str:
    from datasets_app.models import Dataset

    dataset = Dataset.objects.filter(pk=job.arguments[0]).first()
    return dataset.get_absolute_url() if dataset is not None else ""


def count_address(job: Job) -> str:
    from datasets_app.models import TokenLengths

    rows = TokenLengths.objects.filter(pk=job.arguments[0]).select_related("dataset")
    lengths = rows.first()
    return lengths.dataset.get_absolute_url() if lengths is not None else ""


def limit_process(*, seconds: int) -> None:
    """Bound the memory and processor time of this process. The worker has forked it for this one
    job."""
    process_limit(memory_bytes=MEMORY_BYTES, seconds=seconds)
