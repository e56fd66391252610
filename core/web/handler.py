"""Django behind an ASGI server, with its views as they are: synchronous.

Django's own ASGI handler starts a thread (and a database connection) for every request, reads an
upload twice, and collects a synchronous stream in memory before it sends the first byte. Here

- a page runs from the first middleware to the last byte in one of a few threads that stay, and
  gets it only when its request has arrived whole;
- an upload gets a thread of its own, in which Django's parser reads it as it comes;
- a synchronous stream (a download) gets a thread of its own, which works only when the client can
  take more;
- an asynchronous stream (a StreamingHttpResponse of an async generator) runs on the event loop and
  holds no thread at all, after every middleware has had its say;
- an answer that is decided later (core.web.later.LaterResponse) is waited for on the event loop.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
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

from core.error_shapes import error_of, is_for_programs
from core.upload import FORM_BYTES, DiskUploadHandler, too_large
from core.web.later import LaterResponse
from core.web.proxies import trusted_headers
from core.web.request_body import SMALL_BODY, Body, ClientLeft, Message, Receive
from core.web.threads import TooManyTransfers, Transfer, Transfers

Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

# Requests in the queue for each thread; more are refused at once and not after minutes.
WAITING_PER_THREAD = 50
# A file of at most that size is read at once and not streamed.
SMALL_FILE = 1 << 18
BLOCK = 1 << 18
# How much of the rest of a refused upload is read, so that the client sees why.
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

        headers = trusted_headers(scope["headers"], _address(scope))
        scope = scope | {"headers": headers}

        if _length(scope) > settings.UPLOAD_LIMIT_BYTES + FORM_BYTES:
            # Before a byte of it is read: the client may wait for the answer before it sends any.
            refusal = _refusal(scope, 413, "too_large", too_large())
            await self._send(scope, refusal, send)
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

        if content:
            # Chunked bodies come without a length, which DRF's parsers want to see.
            headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
            headers.append((b"content-length", str(len(content)).encode()))
            scope = scope | {"headers": headers}

        if self.waiting >= self.most_waiting:
            refusal = _busy(scope, "The platform is busy. Try again in a minute.")
            await self._send(scope, refusal, send)
            return

        self.waiting += 1
        try:
            page = self.pages.submit(self.respond, scope, io.BytesIO(content))
            response = await _result(page)
        finally:
            self.waiting -= 1

        await self._answer(scope, body, response, send)

    async def _serve_upload(self, scope: dict[str, Any], body: Body, send: Send) -> None:
        if b"content-length" not in dict(scope["headers"]):
            text = "Send a body of this size with its length (Content-Length)."
            refusal = _refusal(scope, 411, "length_required", text)
            await self._send(scope, refusal, send)
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

        await self._answer(scope, body, response, send)

        if not body.is_whole:
            with suppress(TimeoutError, ClientLeft):
                await asyncio.wait_for(body.discard(DISCARD_BYTES), DISCARD_SECONDS)

    def respond(self, scope: dict[str, Any], body: Any) -> HttpResponseBase:
        """Django's response, made in a thread. Only streams are still open then."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)

        try:
            request = ASGIRequest(scope, body)
        except UnicodeDecodeError:
            logger.warning("address not in UTF-8: %r", scope["raw_path"])
            text = "This address is not written in UTF-8."
            return HttpResponseBadRequest(text, content_type="text/plain")

        response = self.get_response(request)
        response._handler_class = self.__class__  # type: ignore[attr-defined]

        is_head = request.method == "HEAD"

        if not isinstance(response, StreamingHttpResponse):
            response.close()
        elif is_head or _is_small(response):
            response = _read_stream(response, with_content=not is_head)
        else:
            # It ends elsewhere; here the thread is free for the next.
            close_old_connections()

        _uploads_discard(request)
        return response

    # Answers

    async def _answer(
        self, scope: dict[str, Any], body: Body, response: HttpResponseBase, send: Send
    ) -> None:
        sending = self._send(scope, response, send)

        if body.is_whole and _is_async_stream(response):
            await _unless_left(body.receive, sending)
        else:
            await sending

    async def _send(self, scope: dict[str, Any], response: HttpResponseBase, send: Send) -> None:
        if isinstance(response, LaterResponse):
            await self._send_later(scope, response, send)
            return

        if isinstance(response, StreamingHttpResponse):
            if response.is_async:
                await self._send_async_stream(response, send)
            else:
                await self._send_stream(scope, response, send)

            return

        content: bytes = response.content  # type: ignore[attr-defined]
        # Refusals of this module have passed no middleware that would set it.
        response.headers.setdefault("Content-Length", str(len(content)))
        await send(_start(response))

        is_head = scope["method"] == "HEAD"
        await send({"type": "http.response.body", "body": b"" if is_head else content})

    async def _send_later(self, scope: dict[str, Any], response: LaterResponse, send: Send) -> None:
        try:
            answer = await response.decided()
        except Exception:
            logger.exception("no answer could be made for %s", scope["path"])
            answer = _refusal(scope, 500, "error", "An error of the platform ended this answer.")
        finally:
            self.pages.submit(response.close)

        await self._send(scope, answer, send)

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


async def _unless_left(receive: Receive, sending: Coroutine[Any, Any, None]) -> None:
    """Send an answer that may take long, and end that as soon as the client has left: the server
    itself cancels what is still sent only seconds later. The request has arrived whole."""
    answer = asyncio.create_task(sending)
    leaving = asyncio.create_task(_left(receive))

    try:
        await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            return

        # What it raised, and that it was cut off (core.web.open_streams), is for the server.
        await answer
    finally:
        leaving.cancel()
        answer.cancel()
        await asyncio.wait({answer, leaving})


async def _left(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_async_stream(response: HttpResponseBase) -> bool:
    return isinstance(response, StreamingHttpResponse) and response.is_async


async def _result(future: Future[T]) -> T:
    """What a thread returns. If nobody waits for it any more, a response is closed as soon as it
    is there."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        future.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(future: Future[Any]) -> None:
    if future.cancelled() or future.exception() is not None:
        return

    response = future.result()
    if isinstance(response, HttpResponseBase):
        response.close()


def _length(scope: dict[str, Any]) -> int:
    """The length of the body in bytes as the client states it; 0 where it states none."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")

    if not length.isdigit() or len(length) > 18:
        return 0

    return int(length)


def _uploads_discard(request: ASGIRequest) -> None:
    """Remove what arrived of a file whose client left. The parser's exception bypasses the upload
    handler, and the request itself may live on until the next garbage collection."""
    for handler in getattr(request, "_upload_handlers", ()):
        if isinstance(handler, DiskUploadHandler):
            handler.upload_interrupted()


def _start(response: HttpResponseBase) -> Message:
    headers = []

    for name, value in response.items():
        headers.append((name.encode("ascii"), value.encode("latin-1")))

    for cookie in response.cookies.values():
        text = cookie.output(header="").strip()
        headers.append((b"Set-Cookie", text.encode("ascii")))

    return {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": headers,
    }


def _is_small(response: StreamingHttpResponse) -> bool:
    length = response.headers.get("Content-Length", "")
    return not response.is_async and length.isdigit() and int(length) <= SMALL_FILE


def _read_stream(response: StreamingHttpResponse, *, with_content: bool) -> HttpResponse:
    """The stream as a plain response; the stream is closed."""
    content = b""
    if with_content:
        content = b"".join(response.streaming_content)  # type: ignore[arg-type]

    plain = HttpResponse(content, status=response.status_code)
    plain.headers = response.headers
    plain.cookies = response.cookies
    response.close()

    return plain


def _blocks(response: StreamingHttpResponse) -> Iterator[bytes]:
    """The stream in pieces of about BLOCK bytes, since each costs a thread switch."""
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
    path = scope["path"]
    if is_for_programs(path):
        body = error_of(path, status, code, text)
        response: HttpResponse = JsonResponse(body, status=status)
        return response

    return HttpResponse(text, content_type="text/plain", status=status)
