"""What the queue calls. A job takes an id and calls a service."""

from __future__ import annotations

import resource
from pathlib import Path

from core.jobs import queue_job

# What a check may take beyond what its process holds already: a hostile file must not take the machine down.
MEMORY_BYTES = 2 << 30
START_SECONDS = 600
BYTES_A_SECOND = 500_000


@queue_job
def check_dataset(dataset_id: int) -> None:
    from datasets_app.checking import dataset_check

    # Programs that make the file first have limits of their own.
    dataset_check(
        dataset_id,
        lambda dataset: limit_process(seconds=START_SECONDS + dataset.size_bytes // BYTES_A_SECOND),
    )


@queue_job
def count_tokens(lengths_id: int) -> None:
    from datasets_app.lengths import lengths_count

    lengths_count(lengths_id)


def limit_process(*, seconds: int) -> None:
    """Bound the memory and processor time of this process. RQ has forked it for this one job."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)
    _limit(resource.RLIMIT_CPU, seconds)


def _limit(kind: int, wanted: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
