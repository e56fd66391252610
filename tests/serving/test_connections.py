"""Connections to a model server that turn out to be closed, against a real server that closes them."""

import asyncio
from types import SimpleNamespace

import pytest

from serving.answering import STALE_CONNECTIONS, AnswerProblem, Server
from tests.serving.conftest import closing


async def reply_after(closed: int, *, by_reset: bool):
    """What a request gets whose first `closed` connections end without an answer."""
    count = 0

    async def answer(reader, writer):
        nonlocal count
        count += 1
        await reader.readuntil(b"\r\n\r\n")
        if count <= closed:
            if by_reset:
                writer.transport.abort()
            else:
                writer.close()
            return

        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def unknown():
        return None

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    ready = {"key": "-", "url": f"http://127.0.0.1:{port}", "extras": {}}
    try:
        return await Server(SimpleNamespace(why_lost=unknown), ready).post("/tokenize", {})
    finally:
        listening.close()


@pytest.mark.parametrize("by_reset", [False, True])
def test_a_connection_that_was_closed_is_made_again(by_reset):
    assert asyncio.run(closing(reply_after(STALE_CONNECTIONS, by_reset=by_reset))) == {}


def test_a_server_that_closes_every_connection_is_lost():
    with pytest.raises(AnswerProblem, match="ended in the middle"):
        asyncio.run(closing(reply_after(STALE_CONNECTIONS + 1, by_reset=False)))
