"""What a web process closes when it ends: parts of the platform register it here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger("deepextension.web")

_closings: list[Callable[[], Awaitable[None]]] = []


def at_end(closing: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Await `closing` on the event loop of the web process, once all requests are answered."""
    _closings.append(closing)
    return closing


async def end() -> None:
    """Close everything; what fails is logged, and keeps nothing else from being closed."""
    for closing in _closings:
        try:
            await closing()
        except Exception:
            logger.exception("A web process could not close something at its end")
