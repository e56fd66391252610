"""A request's body: small ones are in memory before Django starts, large ones are read as they
come."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

# What is read before a thread is spent on a request.
SMALL_BODY = 1 << 18

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]


class ClientLeft(OSError):
    """The connection ended in the middle of a body. Django makes UnreadablePostError of it."""


class Body(io.RawIOBase):
    """Blocking reads for a thread, from an ASGI `receive` on an event loop."""

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.receive = receive
        self.loop = loop
        self.pending = bytearray()
        self.is_whole = False

    async def fill(self, size: int = 1) -> None:
        """Wait, on the event loop, until `size` bytes or the whole body are here. Raises
        ClientLeft."""
        while len(self.pending) < size and not self.is_whole:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("The client closed the connection, or sent too slowly.")

            self.pending += message.get("body", b"")
            self.is_whole = not message.get("more_body", False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.pending and not self.is_whole:
            filled = asyncio.run_coroutine_threadsafe(self.fill(), self.loop)
            filled.result()

        size = min(len(buffer), len(self.pending))
        buffer[:size] = self.pending[:size]
        del self.pending[:size]

        return size

    async def discard(self, most: int) -> None:
        """Read on and forget, so that a client which is still sending gets to read its answer."""
        while not self.is_whole and most > 0:
            self.pending.clear()
            await self.fill()
            most -= len(self.pending)
