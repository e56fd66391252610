"""200 open pages of a running train and 20 people who click: python -m benchmarks.load

Every open page follows the train as static/evaluation.js does, by server-sent events, and asks for
the judgement every 15 seconds. People open a page, read it for a while, open the next. Measured
is how long after the engine wrote a logged step it is in an answer, over all pages, what that costs
the web processes, and whether any request failed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.live import Platform, running_platform

CLICKS = (
    "/trains/",
    "/trains/{run}/",
    "/trains/{run}/evaluation/",
    "/trains/{run}/log/",
    "/datasets/",
    "/methods/",
)


@dataclass
class Seen:
    delays: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: int = 0


class Browser:
    """One connection that is kept open, as browsers do; each request waits for the answer to the one
    before."""

    def __init__(self, port: int, cookie: str, seen: Seen) -> None:
        self.port, self.cookie, self.seen = port, cookie, seen
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def get(self, path: str) -> bytes:
        began = time.monotonic()
        self.seen.requests += 1
        for attempt in (1, 2):
            try:
                status, body = await self._ask(path)
                break
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                # The connection may have been closed meanwhile; a browser then opens another one.
                self.writer = None
                if attempt == 2:
                    self.seen.errors.append(f"{path}: {type(error).__name__}")
                    return b""

        self.seen.waits.append(time.monotonic() - began)
        if status != 200:
            self.seen.errors.append(f"{path}: {status}")

        return body

    async def _ask(self, path: str) -> tuple[int, bytes]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

        assert self.reader is not None
        head = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nCookie: "
            f"{self.cookie}\r\nAccept: */*\r\n\r\n"
        )
        self.writer.write(head.encode())
        await self.writer.drain()
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(answer.split(" ", 2)[1])
        headers = dict(line.split(": ", 1) for line in answer.split("\r\n")[1:] if ": " in line)
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readline()

            await self.reader.readline()
        else:
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))

        if headers.get("connection") == "close":
            self.writer.close()
            self.writer = None

        return status, body

    async def events(self, path: str, until: float) -> AsyncIterator[dict[str, Any]]:
        """The messages of a stream of server-sent events."""
        self.seen.requests += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nCookie: {self.cookie}\r\n"
            "Accept: text/event-stream\r\n\r\n"
        )
        writer.write(head.encode())
        status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        if status != b"200":
            self.seen.errors.append(f"{path}: {status.decode()}")
            return

        text = b""
        while time.monotonic() < until:
            size = int(await reader.readline() or b"0", 16)
            if not size:
                self.seen.errors.append(f"{path}: ended")
                break

            text += await reader.readexactly(size + 2)
            *events, text = text.removesuffix(b"\r\n").split(b"\n\n")
            for event in events:
                if event.startswith(b"id: "):
                    yield json.loads(event.partition(b"data: ")[2])

        writer.close()


async def page(browser: Browser, run: int, until: float) -> None:
    """static/evaluation.js"""
    after = json.loads(await browser.get(f"/trains/{run}/series/") or b'{"next": 0}')["next"]
    await browser.get(f"/trains/{run}/evaluation/answers/")
    judged = 0.0

    # The stream has a connection of its own, as in a browser.
    stream = Browser(browser.port, browser.cookie, browser.seen)
    async for answer in stream.events(f"/api/v1/trains/{run}/events/?after={after}", until):
        now = time.time()
        browser.seen.delays += [now - row["time"] for row in answer["rows"]]

        if time.monotonic() - judged > 15:
            judged = time.monotonic()
            await browser.get(f"/trains/{run}/judgement/")


async def person(browser: Browser, run: int, until: float) -> None:
    while time.monotonic() < until:
        await browser.get(random.choice(CLICKS).format(run=run))
        await asyncio.sleep(random.uniform(1, 4))


async def crowd(port: int, cookie: str, run: int, pages: int, people: int, seconds: float) -> Seen:
    seen = Seen()
    until = time.monotonic() + seconds

    def browser() -> Browser:
        return Browser(port, cookie, seen)

    async def later(task: Any) -> None:
        """Starts after a random delay: nobody opens 200 pages at the same moment."""
        await asyncio.sleep(random.uniform(0, 3))
        await task

    tasks = [page(browser(), run, until) for _ in range(pages)]
    tasks += [person(browser(), run, until) for _ in range(people)]
    await asyncio.gather(*(later(task) for task in tasks))

    return seen


def web_seconds(platform: Platform) -> float:
    """Processor time of all web processes."""
    return sum(sum(process.cpu_times()[:2]) for process in platform.processes("manage.py web"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"

    with running_platform() as platform:
        rows = [
            {"prompt": f"Question {number}?", "completion": "The answer is yes."}
            for number in range(40)
        ]

        dataset = platform.upload(
            "load.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()
        )
        run = platform.start(
            dataset, max_steps=100_000, batch_size=8, max_tokens=256, evaluation_split=0
        )
        platform.training(run, step=3)
        cookie = "; ".join(
            f"{item.name}={item.value}" for item in platform.session("alice").cookies
        )
        port = int(platform.url.rsplit(":", 1)[1])
        before = web_seconds(platform)
        seen = asyncio.run(
            crowd(port, cookie, run["id"], options.pages, options.people, options.seconds)
        )
        web = web_seconds(platform) - before
        steps = platform.get(f"trains/{run['id']}/")["step"]
        platform.api("POST", f"trains/{run['id']}/stop/", json={"discard": True})
        platform.ended(run)

    cuts = statistics.quantiles(seen.delays, n=20)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "pages": options.pages,
        "people": options.people,
        "seconds": options.seconds,
        "requests": seen.requests,
        "requests_per_second": round(seen.requests / options.seconds, 1),
        "errors": len(seen.errors),
        "step_to_page_median_s": round(statistics.median(seen.delays), 2),
        "step_to_page_p95_s": round(cuts[18], 2),
        "web_cores": round(web / options.seconds, 2),
        "answer_median_s": round(statistics.median(seen.waits), 3),
        "answer_p95_s": round(statistics.quantiles(seen.waits, n=20)[18], 3),
        "steps_while_measured": steps,
    }

    print(json.dumps(result, indent=2))

    for text in sorted(set(seen.errors))[:10]:
        print(text, file=sys.stderr)

    return 0


if __name__ == "__main__":
    sys.exit(main())
