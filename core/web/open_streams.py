"""Answers that stay open, such as live pages: which there are, so that a web process can end.

A client of such an answer connects again by itself and says what it has, so that it can be cut off
at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

_open: set[asyncio.Task[object]] = set()


@contextmanager
def open_stream() -> Iterator[None]:
    """Count the task that runs this among the open streams."""
    task = asyncio.current_task()
    assert task is not None

    _open.add(task)
    try:
        yield
    finally:
        _open.discard(task)


def streams_close() -> None:
    """Cut off all of them: this process ends."""
    for task in list(_open):
        task.cancel()
