"""What asks the database, called from the event loop: in one of a few threads that keep their
connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import close_old_connections

T = TypeVar("T")

# Few: what they do takes less than a millisecond.
_threads = ThreadPoolExecutor(2, "live")


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call what asks the database in one of the threads that have a connection for that."""
    return await asyncio.get_running_loop().run_in_executor(
        _threads, _with_connection, function, *arguments
    )


def _with_connection(function: Callable[..., T], *arguments: Any) -> T:
    close_old_connections()
    return function(*arguments)
