"""HTTP connections with limits: no client holds one by sending or reading slowly.

gunicorn's ASGI protocol has a time-out for idle keep-alive connections only. This adds

- a deadline for the head of a request, counted from the connection's start;
- a minimum rate for the body of a request. A limit on its total time would end large uploads;
- a deadline for a client that stops reading its answer;
- limits on the connections of one address and of the process.

Apache has the same limits in mod_reqtimeout, nginx in client_header_timeout and its siblings.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]

from core.web.connections import Connections

HEAD_SECONDS = 20
# A client must send BODY_BYTES in every BODY_SECONDS: 500 bytes a second, slower than any modem.
BODY_SECONDS = 30
BODY_BYTES = 15_000
# A connection that has sent that much is an upload, not a slow client.
UPLOAD_BYTES = 1 << 18
# The system buffers some hundred kilobytes of an answer before a slow reader is noticed.
READ_SECONDS = 120
CLOSE_SECONDS = 5


class LimitedProtocol(ASGIProtocol):  # type: ignore[misc]
    """One connection of a client."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self.connections: Connections = worker.connections
        self.address = ""
        self._admitted = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._window_bytes = 0
        self._body_bytes = 0

    def _start_timer(self, name: str, seconds: float, action: Any) -> None:
        self._stop_timer(name)
        self._timers[name] = self.worker.loop.call_later(seconds, action)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # Life of the connection

    def connection_made(self, transport: asyncio.Transport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        super().connection_made(transport)

        self._admitted = True
        self._start_timer("head", HEAD_SECONDS, self._head_is_late)

        if not self.connections.admit(self):
            self._refuse(503, "Too many connections. Close some and try again.")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._admitted:
            self._admitted = False
            self.connections.remove(self)

        for name in list(self._timers):
            self._stop_timer(name)

        super().connection_lost(exc)

    def make_room(self) -> None:
        """Close, because a newer connection needs the place."""
        self._refuse(408, "Too many unfinished requests from your address.")

    def _refuse(self, status: int, text: str) -> None:
        """Answer a request that was begun and is not with the application yet, and close."""
        is_idle = self._awaiting_request and self.req_count > 1

        if not is_idle:
            self.connections.closed[self.address] += 1

            if self._current_request is None:
                headers = (("Retry-After", "5"),)
                self._send_error_response(status, text, headers)

        self._close_transport()
        # Lets gunicorn's loop notice that the connection is closed.
        if self._request_ready is not None:
            self._request_ready.set()

    def _abort(self) -> None:
        self.connections.closed[self.address] += 1
        self.transport.abort()

    def _close_transport(self) -> None:
        """Send what is written, without waiting for a client that never reads it."""
        was_open = not self._closed
        super()._close_transport()

        if was_open and self.transport is not None and not self._conn_lost_handled:
            self._start_timer("close", CLOSE_SECONDS, self.transport.abort)

    # The head of a request

    def _on_headers_complete(self) -> Any:
        self._stop_timer("head")
        self._window_bytes = 0
        self._body_bytes = 0
        skip_body = super()._on_headers_complete()

        request = self._current_request
        if request.content_length or request.chunked:
            self.connections.request_expected(self)
            self._start_timer("body", BODY_SECONDS, self._check_body)

        return skip_body

    def _head_is_late(self) -> None:
        self._refuse(408, "The request did not arrive in time.")

    # The body of a request

    def data_received(self, data: bytes) -> None:
        super().data_received(data)

        if "body" in self._timers:
            self._window_bytes += len(data)
            self._body_bytes += len(data)

            if self._body_bytes > UPLOAD_BYTES:
                self.connections.request_arrived(self)

    def _on_message_complete(self) -> None:
        super()._on_message_complete()
        self._stop_timer("body")
        self.connections.request_arrived(self)

    def _check_body(self) -> None:
        """Runs every BODY_SECONDS while a body is on its way."""
        is_slow = self._window_bytes < BODY_BYTES
        # While reading is paused, the platform is slow and not the client.
        if is_slow and not self._reading_paused:
            self._abort()
            return

        self._window_bytes = 0
        self._start_timer("body", BODY_SECONDS, self._check_body)

    # The answer, and the time until the next request

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_timer("read", READ_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_timer("read")

    def _arm_keepalive_timer(self) -> None:
        super()._arm_keepalive_timer()
        self.connections.is_idle(self)

    def _cancel_keepalive_timer(self) -> None:
        super()._cancel_keepalive_timer()
        self.connections.idle.pop(self, None)
