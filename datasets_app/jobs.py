"""What the background workers call. A job takes an id and calls a service."""

from __future__ import annotations

from core.limits import process_limit

# What a check may take beyond what its process holds already: a hostile file must not take the
# machine down.
MEMORY_BYTES = 2 << 30


def check_dataset(dataset_id: int) -> None:
    from datasets_app.check_queue import check_seconds
    from datasets_app.checking import dataset_check

    # Programs that make the file first have limits of their own.
    dataset_check(
        dataset_id,
        lambda dataset: limit_process(seconds=int(check_seconds(dataset))),
    )


def count_tokens(lengths_id: int) -> None:
    from datasets_app.lengths import lengths_count

    lengths_count(lengths_id)


def check_ended(dataset_id: int, *, reason: str, limit_seconds: float) -> None:
    from datasets_app import check_queue

    check_queue.check_ended(dataset_id, reason, limit_seconds)


def count_ended(lengths_id: int, *, reason: str, limit_seconds: float) -> None:
    from datasets_app.lengths import count_ended

    count_ended(lengths_id, reason, limit_seconds)


def limit_process(*, seconds: int) -> None:
    """Bound the memory and processor time of this process. The worker has forked it for this one
    job."""
    process_limit(memory_bytes=MEMORY_BYTES, seconds=seconds)
