"""Which threads a request takes. Requests go to the application as an ASGI server gives them to
it."""

from __future__ import annotations

import asyncio

import pytest

from core.web.handler import Handler
from core.web.proxies import is_proxy
from tests.web import urls


class Client:
    """One request and what came back of it so far."""

    def __init__(self, handler, path, *, method="GET", body=b"", headers=(), query=b""):
        self.status, self.content, self.is_whole = None, b"", False
        self.parts = asyncio.Queue()
        self.left = asyncio.Event()
        self.messages = [body[start : start + 60_000] for start in range(0, len(body), 60_000)] or [
            b""
        ]
        headers = [(b"host", b"localhost"), *headers]
        if body:
            headers.append((b"content-length", str(len(body)).encode()))
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": headers,
            "client": ("10.0.0.1", 1),
            "server": ("localhost", 80),
            "scheme": "http",
        }
        self.task = asyncio.create_task(handler(scope, self.receive, self.send))

    async def receive(self):
        if not self.messages:
            await self.left.wait()
            return {"type": "http.disconnect"}
        body = self.messages.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self.messages)}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        self.content += message.get("body", b"")
        self.parts.put_nowait(message.get("body", b""))


def run(settings, scenario, **limits):
    settings.ROOT_URLCONF = "tests.web.urls"
    settings.MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]

    async def main():
        urls.GO_ON = asyncio.Event()
        handler = Handler(**{"threads": 1, "transfers": 4, "transfers_per_address": 3} | limits)
        await asyncio.wait_for(scenario(handler), 60)

    asyncio.run(main())


@pytest.mark.django_db
async def places_are_given_back(handler, seconds=10):
    """By the thread of the transfer, once it has closed its database connections: a moment after
    the answer."""
    deadline = asyncio.get_running_loop().time() + seconds
    while handler.transfers.addresses:
        assert asyncio.get_running_loop().time() < deadline, handler.transfers.addresses
        await asyncio.sleep(0.01)


class TestThreads:
    def test_forty_live_streams_leave_the_only_thread_to_pages(self, settings):
        async def scenario(handler):
            streams = [Client(handler, "/live/") for _ in range(40)]
            for stream in streams:
                assert await stream.parts.get() == b"first "
            page = Client(handler, "/page/")
            await page.task
            assert (page.status, page.content) == (200, b"GET 0")
            urls.GO_ON.set()
            await asyncio.gather(*(stream.task for stream in streams))
            assert {stream.content for stream in streams} == {b"first last"}

        run(settings, scenario)

    def test_a_synchronous_stream_stays_on_one_thread_of_its_own(self, settings):
        async def scenario(handler):
            client = Client(handler, "/export/")
            await client.task
            numbers, threads = zip(
                *(line.split() for line in client.content.splitlines()), strict=True
            )
            assert numbers == (b"0", b"1", b"2")
            assert len(set(threads)) == 1
            assert threads[0].startswith(b"transfer")
            await places_are_given_back(handler)

        run(settings, scenario)

    def test_small_bodies_are_read_before_a_thread_is_taken_and_large_ones_on_their_own(
        self, settings
    ):
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10**7

        async def scenario(handler):
            for size, pool in ((200_000, "page"), (2_000_000, "transfer")):
                urls.THREADS.clear()
                client = Client(handler, "/page/", method="POST", body=b"x" * size)
                await client.task
                assert (client.status, client.content) == (200, f"POST {size}".encode())
                assert [name.partition("_")[0] for name in urls.THREADS] == [pool]

        run(settings, scenario)

    def test_too_many_uploads_of_one_address_are_told_to_come_back(self, settings):
        async def scenario(handler):
            held = [handler.transfers.begin("10.0.0.1") for _ in range(3)]
            client = Client(handler, "/page/", method="POST", body=b"x" * 2_000_000)
            await client.task
            assert client.status == 503
            held.pop().end()
            while len(handler.transfers.addresses) > 2:
                await asyncio.sleep(0.01)
            client = Client(handler, "/page/", method="POST", body=b"x" * 2_000_000)
            await client.task
            assert client.status == 200
            for transfer in held:
                transfer.end()

        run(settings, scenario)

    def test_a_head_has_no_body(self, settings):
        async def scenario(handler):
            client = Client(handler, "/page/", method="HEAD")
            await client.task
            assert (client.status, client.content) == (200, b"")

        run(settings, scenario)

    @pytest.mark.parametrize(
        ("proxies", "is_believed"),
        [
            ([], False),
            (["10.0.0.1"], True),
            (["10.0.0.0/8"], True),
            (["*"], True),
            (["10.0.0.2", "odd"], False),
        ],
    )
    def test_only_a_proxy_says_where_a_request_came_from(self, settings, proxies, is_believed):
        settings.FORWARDED_ALLOW_IPS = proxies
        is_proxy.cache_clear()

        async def scenario(handler):
            claims = [
                (b"x-forwarded-for", b"192.0.2.7"),
                (b"x-forwarded-proto", b"https"),
                (b"accept", b"*/*"),
            ]
            client = Client(handler, "/page/", headers=claims)
            await client.task
            seen = client.headers[b"Client"].decode().lower()
            assert ("192.0.2.7" in seen) == ("x-forwarded-proto" in seen) == is_believed
            assert "accept" in seen

        run(settings, scenario)
        is_proxy.cache_clear()


class TestLater:
    """What is decided on the event loop."""

    @pytest.mark.parametrize(
        ("kind", "status", "content"),
        [
            ("", 409, b"at last"),
            ("stream", 206, b"first last"),
            ("broken", 500, b"An error of the platform ended this answer."),
        ],
    )
    def test_many_wait_and_leave_the_only_thread_to_pages(self, settings, kind, status, content):
        async def scenario(handler):
            query = f"kind={kind}".encode()
            waiting = [Client(handler, "/later/", query=query) for _ in range(40)]
            page = Client(handler, "/page/")
            await page.task
            assert page.status == 200
            assert {client.status for client in waiting} == {None}
            urls.GO_ON.set()
            await asyncio.gather(*(client.task for client in waiting))
            assert {(client.status, client.content) for client in waiting} == {(status, content)}
            if kind != "broken":
                assert waiting[0].headers[b"From-The-View"] == b"yes"
                assert waiting[0].headers[b"Set-Cookie"].startswith(b"seen=1")

        run(settings, scenario)

    def test_who_leaves_ends_the_decision(self, settings):
        async def scenario(handler):
            urls.CANCELLED.clear()
            client = Client(handler, "/later/", query=b"kind=left")
            page = Client(handler, "/page/")
            await page.task
            client.left.set()
            await client.task
            assert urls.CANCELLED == ["left"]

        run(settings, scenario)

    def test_who_leaves_ends_the_stream(self, settings):
        async def scenario(handler):
            urls.CANCELLED.clear()
            client = Client(handler, "/live/")
            assert await client.parts.get() == b"first "
            client.left.set()
            await client.task
            assert urls.CANCELLED == ["words"]

        run(settings, scenario)

    def test_a_head_has_no_body_and_waits_for_nothing(self, settings):
        async def scenario(handler):
            client = Client(handler, "/later/", method="HEAD")
            await client.task
            assert client.content == b""

        run(settings, scenario)
