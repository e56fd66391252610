"""Django behind an ASGI server, with its views as they are: synchronous.

Django's own ASGI handler starts a thread (and a database connection) for every request, reads an
upload twice, and collects a synchronous stream in memory before it sends the first byte. Here

- a page runs from the first middleware to the last byte in one of a few threads that stay, and
  gets it only when its request has arrived whole;
- an upload gets a thread of its own, in which Django's parser reads it as it comes;
- a synchronous stream (a download) gets a thread of its own, which works only when the client can
  take more;
- an asynchronous stream (a StreamingHttpResponse of an async generator) runs on the event loop and
  holds no thread at all, after every middleware has had its say.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIRequest, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.db import close_old_connections
from django.http import (
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import set_script_prefix

from core.api import error_body
from core.upload import FORM_BYTES, DiskUploadHandler, too_large
from core.web.proxies import believed_headers
from core.web.request_body import SMALL_BODY, Body, ClientLeft, Message, Receive
from core.web.threads import TooManyTransfers, Transfer, Transfers

Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

# Requests in the queue for each thread; what comes on top is refused at once and not after minutes.
WAITING_PER_THREAD = 50
# A file of that size is read at once and not streamed.
SMALL_FILE = 1 << 18
BLOCK = 1 << 18
# Of an upload that was refused: how much of the rest is read, so that the client sees why.
DISCARD_BYTES = 64 << 20
DISCARD_SECONDS = 5

logger = logging.getLogger("deepextension.web")


class Handler(BaseHandler):
    """An ASGI application.

    Args:
        threads: for pages, in each process.
        transfers: uploads and downloads at once, in each process.
        transfers_per_address: of those, for one address.
    """

    def __init__(self, *, threads: int, transfers: int, transfers_per_address: int) -> None:
        super().__init__()
        self.load_middleware()
        # Threads start with the first request, and so after a fork.
        self.pages = ThreadPoolExecutor(threads, "page")
        self.most_waiting = threads * WAITING_PER_THREAD
        self.waiting = 0
        self.transfers = Transfers(transfers, transfers_per_address)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return

        assert scope["type"] == "http"

        scope = scope | {"headers": believed_headers(scope["headers"], _address(scope))}
        if _length(scope) > settings.UPLOAD_LIMIT_BYTES + FORM_BYTES:
            # Before a byte of it is read: the client may wait for the answer before it sends any.
            await self._send(scope, _refusal(scope, 413, "too_large", too_large()), send)
            return

        body = Body(receive, asyncio.get_running_loop())
        try:
            await body.fill(SMALL_BODY + 1)
        except ClientLeft:
            return

        if body.is_whole:
            await self._serve_page(scope, body, send)
        else:
            await self._serve_upload(scope, body, send)

    # Requests

    async def _serve_page(self, scope: dict[str, Any], body: Body, send: Send) -> None:
        content = bytes(body.pending)
        # Chunked bodies come without a length, which DRF's parsers want to see.
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(content)).encode()))

        if not content:
            headers = scope["headers"]

        scope = scope | {"headers": headers}

        if self.waiting >= self.most_waiting:
            await self._send(
                scope, _busy(scope, "The platform is busy. Try again in a minute."), send
            )
            return

        self.waiting += 1
        try:
            response = await _result(self.pages.submit(self.respond, scope, io.BytesIO(content)))
        finally:
            self.waiting -= 1

        await self._send(scope, response, send)

    async def _serve_upload(self, scope: dict[str, Any], body: Body, send: Send) -> None:
        if b"content-length" not in dict(scope["headers"]):
            text = "Send a body of this size with its length (Content-Length)."
            await self._send(scope, _refusal(scope, 411, "length_required", text), send)
            return

        try:
            transfer = self.transfers.begin(_address(scope))
        except TooManyTransfers:
            await self._send(scope, _busy(scope), send)
            return

        try:
            stream = io.BufferedReader(body, BLOCK)
            response = await _result(transfer.run(self.respond, scope, stream))
        finally:
            transfer.end()

        await self._send(scope, response, send)

        if not body.is_whole:
            with suppress(TimeoutError, ClientLeft):
                await asyncio.wait_for(body.discard(DISCARD_BYTES), DISCARD_SECONDS)

    def respond(self, scope: dict[str, Any], body: Any) -> HttpResponseBase:
        """In a thread: what Django answers. Only streams are still open then."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)

        try:
            request = ASGIRequest(scope, body)
        except UnicodeDecodeError:
            logger.warning("an address that is no UTF-8: %r", scope["raw_path"])
            return HttpResponseBadRequest(
                "This address is not written in UTF-8.", content_type="text/plain"
            )

        response = self.get_response(request)
        response._handler_class = self.__class__  # type: ignore[attr-defined]

        if isinstance(response, StreamingHttpResponse):
            if request.method == "HEAD" or _is_small(response):
                response = _whole(response, with_content=request.method != "HEAD")
            else:
                # It ends elsewhere; here the thread is free for the next.
                close_old_connections()
        else:
            response.close()

        _uploads_discard(request)
        return response

    # Answers

    async def _send(self, scope: dict[str, Any], response: HttpResponseBase, send: Send) -> None:
        if not isinstance(response, StreamingHttpResponse):
            # Refusals of this module have passed no middleware that would set it.
            response.headers.setdefault("Content-Length", str(len(response.content)))  # type: ignore[attr-defined]
            await send(_start(response))
            is_head = scope["method"] == "HEAD"
            content = b"" if is_head else response.content  # type: ignore[attr-defined]
            await send({"type": "http.response.body", "body": content})
        elif response.is_async:
            await self._send_async_stream(response, send)
        else:
            await self._send_stream(scope, response, send)

    async def _send_async_stream(self, response: StreamingHttpResponse, send: Send) -> None:
        try:
            await send(_start(response))
            async with aclosing(_as_generator(response)) as parts:
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})

            await send({"type": "http.response.body"})
        finally:
            # Closing may ask the database, which the event loop must not do.
            self.pages.submit(response.close)

    async def _send_stream(
        self, scope: dict[str, Any], response: StreamingHttpResponse, send: Send
    ) -> None:
        try:
            transfer = self.transfers.begin(_address(scope))
        except TooManyTransfers:
            self.pages.submit(response.close)
            await self._send(scope, _busy(scope), send)
            return

        try:
            await send(_start(response))
            await self._send_parts(response, transfer, send)
        finally:
            transfer.run(response.close)
            transfer.end()

    async def _send_parts(
        self, response: StreamingHttpResponse, transfer: Transfer, send: Send
    ) -> None:
        parts = _blocks(response)
        while block := await _result(transfer.run(next, parts, b"")):
            await send({"type": "http.response.body", "body": block, "more_body": True})

        await send({"type": "http.response.body"})


async def _result(future: Future[T]) -> T:
    """What a thread makes. Where nobody waits for it any more, an answer is closed when it is
    there."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        future.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(future: Future[Any]) -> None:
    if future.cancelled() or future.exception() is not None:
        return
    if isinstance(answer := future.result(), HttpResponseBase):
        answer.close()


def _length(scope: dict[str, Any]) -> int:
    """Of the body, as the client says; 0 where it says nothing."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() and len(length) < 19 else 0


def _uploads_discard(request: ASGIRequest) -> None:
    """Remove what arrived of a file whose client left. The parser raises past the handler, and the
    request itself may live on until the next collection of garbage."""
    for handler in getattr(request, "_upload_handlers", ()):
        if isinstance(handler, DiskUploadHandler):
            handler.upload_interrupted()


def _start(response: HttpResponseBase) -> Message:
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    cookies = (cookie.output(header="").strip() for cookie in response.cookies.values())
    headers += [(b"Set-Cookie", cookie.encode("ascii")) for cookie in cookies]
    return {"type": "http.response.start", "status": response.status_code, "headers": headers}


def _is_small(response: StreamingHttpResponse) -> bool:
    length = response.headers.get("Content-Length", "")
    return not response.is_async and length.isdigit() and int(length) <= SMALL_FILE


def _whole(response: StreamingHttpResponse, *, with_content: bool) -> HttpResponse:
    """The stream as a plain answer, closed."""
    content = b"".join(response.streaming_content) if with_content else b""  # type: ignore[arg-type]
    plain = HttpResponse(content, status=response.status_code)
    plain.headers = response.headers
    plain.cookies = response.cookies
    response.close()

    return plain


def _blocks(response: StreamingHttpResponse) -> Iterator[bytes]:
    """The stream in pieces of about BLOCK bytes: each costs a change of threads."""
    if (file := getattr(response, "file_to_stream", None)) is not None:
        yield from iter(lambda: file.read(BLOCK), b"")
        return

    pending = bytearray()
    for part in response.streaming_content:  # type: ignore[union-attr]
        pending += part
        if len(pending) >= BLOCK:
            yield bytes(pending)
            pending.clear()

    if pending:
        yield bytes(pending)


async def _as_generator(response: StreamingHttpResponse) -> AsyncGenerator[bytes, None]:
    async for part in response:
        yield part


def _address(scope: dict[str, Any]) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""


TOO_MANY_TRANSFERS = "Too many uploads and downloads run at once. Try again in a minute."


def _busy(scope: dict[str, Any], text: str = TOO_MANY_TRANSFERS) -> HttpResponse:
    response = _refusal(scope, 503, "busy", text)
    response["Retry-After"] = "60"
    return response


def _refusal(scope: dict[str, Any], status: int, code: str, text: str) -> HttpResponse:
    """For what is refused before Django sees it."""
    if scope["path"].startswith("/api/"):
        answer: HttpResponse = JsonResponse(error_body(code, text), status=status)
        return answer

    return HttpResponse(text, content_type="text/plain", status=status)
