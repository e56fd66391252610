"""gunicorn's ASGI worker with our protocol."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from gunicorn.workers import gasgi  # type: ignore[import-untyped]

from core.web.at_end import end
from core.web.connections import Connections
from core.web.open_streams import streams_close
from core.web.protocol import LimitedProtocol
from core.web.proxies import is_proxy

# Files, database connections and pipes of a process, beside its clients.
OTHER_DESCRIPTORS = 200
BACKLOG = 1024
# Who was closed is logged together: a line for each would let an attacker fill the log.
LOG_SECONDS = 60
# Connections that a process takes at once. All processes listen on one socket: with asyncio's
# default of 100, the first to wake up would take a whole burst and keep it.
ACCEPT_AT_ONCE = 2

# gunicorn has no setting for the class of a connection.
gasgi.ASGIProtocol = LimitedProtocol


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers share a burst of connections with other processes."""

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        *,
        sock: socket.socket,
        **options: Any,
    ) -> asyncio.Server:
        server = await super().create_server(
            protocol_factory, sock=sock, backlog=ACCEPT_AT_ONCE, **options
        )
        # The number above is the length of the system's queue as well; set that one right again.
        sock.listen(BACKLOG)
        return server


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """Serves the pages: one event loop for all sockets, and threads for Django alone."""

    def _setup_event_loop(self) -> None:
        self.loop = Loop()
        asyncio.set_event_loop(self.loop)

    async def _serve(self) -> None:
        self.looked_at = time.monotonic()
        self.connections = Connections(
            most=min(self.cfg.worker_connections, _descriptors() - OTHER_DESCRIPTORS),
            most_per_address=settings.WEB_CONNECTIONS_PER_ADDRESS,
            is_trusted=is_proxy,
        )

        await super()._serve()

    def notify(self) -> None:
        """gunicorn calls it every second."""
        super().notify()
        now = time.monotonic()
        if now - self.looked_at > LOG_SECONDS:
            self.looked_at = now
            if line := self.connections.closed_summary():
                self.log.warning(line)

    async def _shutdown(self) -> None:
        # gunicorn would wait for connections on which nothing is asked.
        for connection in [*self.connections.idle, *self.connections.unfinished]:
            connection.make_room()

        # Nor for pages that are followed live, which connect again.
        streams_close()
        await super()._shutdown()
        await end()


def _descriptors() -> int:
    """How many files this process may have open, after asking for as many as are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft >= wanted:
        return soft

    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
