"""What the background workers call."""

from __future__ import annotations

# Answers are written down as they come: it holds few of them.
MEMORY_BYTES = 2 << 30


def run_batch(pk: int) -> str:
    """Returns why it failed, or nothing."""
    from core.limits import process_limit
    from openai_api.inference.batch_running import batch_run

    process_limit(memory_bytes=MEMORY_BYTES)
    return batch_run(pk)


def batch_ended(pk: int, *, reason: str, limit_seconds: float) -> None:
    from openai_api.inference.batch_ends import batch_ended_early

    batch_ended_early(pk, reason)
