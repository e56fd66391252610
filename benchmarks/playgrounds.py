"""What open playgrounds cost trains and pages: python -m benchmarks.playgrounds

One train of SmolLM2 goes on while, in turn, no model is loaded, a playground is open whose model is
loaded and asks nothing, and a playground writes all the time: what a step takes in each, several
rounds of them. Then, without a train, many playgrounds are open, in which people type, some of
them write all the time, and others click through pages: what a page takes, and what failed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.contenders import WORDS, smollm2, synthetic_rows
from benchmarks.environments import ROOT, versions
from benchmarks.start_latency import PARAMETERS, model_added
from engine.contract.rundir import read_events
from engine.run.hardware import processor_name
from tests.live import Platform, running_platform

RESULT = ROOT / "benchmarks" / "results" / "playgrounds.json"
NOBODY, IDLE, WRITING = "no playground", "one idle", "one writing"
ANSWER_TOKENS = 200
CLICKS = ("/trains/", "/datasets/", "/models/", "/jobs/", "/playground/")
# A step that began before the change of what is measured counts for neither.
SETTLE_SECONDS = 8


@dataclass
class Seen:
    """pages: seconds of each page. counts: of each count of what somebody types. first: seconds to
    the first word of each answer."""

    pages: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: list[str] = field(default_factory=list)


class Playground:
    """A conversation with one model, as the page has it."""

    def __init__(self, platform: Platform, http: aiohttp.ClientSession, target: str, seen: Seen):
        self.api = f"{platform.url}/api/v1/conversations/"
        self.headers = {"Authorization": f"Token {platform.token('alice')}"}
        self.http = http
        self.target = target
        self.seen = seen

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.http.post(self.api + path, json=body, headers=self.headers) as response:
            text = await response.text()
            if response.status >= 400:
                raise RuntimeError(f"{path}: {response.status} {text[:200]}")

            found: dict[str, Any] = json.loads(text) if text else {}
            return found

    async def warm(self) -> None:
        await self._post("warm/", {"targets": [self.target]})

    async def type(self) -> None:
        """What the page asks while somebody types."""
        body = {
            "target": self.target,
            "messages": [{"role": "user", "content": sentence()}],
            "count_only": True,
        }
        began = time.monotonic()
        await self._post("tokens/", body)
        self.seen.counts.append(time.monotonic() - began)

    async def ask(self) -> None:
        """A new conversation, and one answer in it."""
        pane = {"target": self.target, "sampling": {"max_tokens": ANSWER_TOKENS}}
        conversation = await self._post("", {"panes": [pane]})
        turn = await self._post(f"{conversation['id']}/turns/", {"text": sentence()})
        answer = f"{conversation['id']}/turns/{turn['position']}/answers/0/"

        began = time.monotonic()
        is_first = True
        headers = self.headers | {"Accept": "text/event-stream"}
        async with self.http.post(self.api + answer, headers=headers) as response:
            if response.status != 200:
                raise RuntimeError(f"{answer}: {response.status}")

            name = b""
            async for line in response.content:
                if line.startswith(b"event: "):
                    name = line[7:].strip()
                    if name == b"failed":
                        raise RuntimeError(f"{answer}: failed")
                elif line.startswith(b"data: ") and name not in (b"state", b"done"):
                    if is_first:
                        self.seen.first.append(time.monotonic() - began)
                        is_first = False
                    self.seen.tokens += 1
                elif not line.strip():
                    name = b""


def sentence() -> str:
    return " ".join(random.choice(WORDS) for _ in range(40))


async def again_and_again(
    act: Callable[[], Awaitable[None]], seen: Seen, until: float, pause: tuple[float, float]
) -> None:
    # Nobody does the same in the same moment as all others.
    await asyncio.sleep(random.uniform(0, max(pause[1], 0.5)))

    while time.monotonic() < until:
        try:
            await act()
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            seen.errors.append(str(error)[:200])
            await asyncio.sleep(0.5)

        await asyncio.sleep(random.uniform(*pause))


# Beside a train


def beside_a_train(platform: Platform, model: str, target: str, rounds: int, seconds: float) -> Any:
    rows = "".join(json.dumps(row) + "\n" for row in synthetic_rows("sft", 2000, random.Random(1)))
    dataset = platform.upload("rows.jsonl", rows.encode())
    run = platform.start(
        dataset, base_model=model, max_steps=100_000, **(PARAMETERS | {"logging_steps": 1})
    )
    platform.training(run, step=4)
    windows: dict[str, list[tuple[float, float]]] = {NOBODY: [], IDLE: [], WRITING: []}
    seen = Seen()

    for number in range(rounds):
        # Every other round the other way round: a machine that slows down favours nobody.
        names = list(windows) if number % 2 == 0 else list(windows)[::-1]
        for name in names:
            windows[name].append(asyncio.run(_window(platform, target, name, seconds, seen)))

    platform.api("POST", f"trains/{run['id']}/stop/", json={"discard": True})
    events = read_events(platform.home / "runs" / str(run["id"]))[0]
    platform.ended(run)
    times = [event["time"] for event in events if event["type"] == "metrics"]

    steps = {
        name: [step for window in found for step in _steps(times, *window)]
        for name, found in windows.items()
    }
    usual = statistics.mean(steps[NOBODY])
    return {
        "errors": seen.errors,
        "tokens_a_second_beside_the_train": round(seen.tokens / (rounds * seconds), 1),
        "steps": {
            name: {
                "count": len(found),
                "mean_seconds": round(statistics.mean(found), 3),
                "slower_by": round(statistics.mean(found) / usual - 1, 3),
            }
            for name, found in steps.items()
        },
    }


def _steps(times: list[float], began: float, ended: float) -> list[float]:
    """Seconds of the steps that lie wholly in a window."""
    inside = [time for time in times if began <= time <= ended]
    return [later - earlier for earlier, later in pairwise(inside)]


async def _window(
    platform: Platform, target: str, name: str, seconds: float, seen: Seen
) -> tuple[float, float]:
    async with aiohttp.ClientSession() as http:
        playground = Playground(platform, http, target, seen)
        writing = None

        if name == NOBODY:
            await asyncio.to_thread(_unload, platform)
        else:
            # Loaded with the threads that it has beside a train.
            await playground.ask()
        if name == WRITING:
            until = time.monotonic() + SETTLE_SECONDS + seconds
            writing = asyncio.create_task(again_and_again(playground.ask, seen, until, (0, 0)))

        await asyncio.sleep(SETTLE_SECONDS)
        began = time.time()
        await asyncio.sleep(seconds)
        ended = time.time()

        if writing is not None:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    return began, ended


def _unload(platform: Platform) -> None:
    for model in platform.get("serving/", by="olga")["models"]:
        body = {"base_key": model["base_key"]}
        platform.api("POST", "serving/unload/", by="olga", json=body)


# Many at once


async def many(
    platform: Platform, target: str, opened: int, writing: int, people: int, seconds: float
) -> Seen:
    seen = Seen()
    cookies = {cookie.name: cookie.value or "" for cookie in platform.session("alice").cookies}

    async with aiohttp.ClientSession(
        cookies=cookies,
        cookie_jar=aiohttp.CookieJar(unsafe=True),
        connector=aiohttp.TCPConnector(limit=0),
    ) as http:
        await Playground(platform, http, target, seen).ask()
        seen.first.clear()
        seen.tokens = 0
        until = time.monotonic() + seconds

        async def click() -> None:
            path = random.choice(CLICKS)
            began = time.monotonic()
            async with http.get(platform.url + path) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{path}: {response.status}")
            seen.pages.append(time.monotonic() - began)

        tasks = [again_and_again(click, seen, until, (1, 4)) for _ in range(people)]
        for number in range(opened):
            playground = Playground(platform, http, target, seen)
            if number < writing:
                tasks.append(again_and_again(playground.ask, seen, until, (0, 0)))
            else:
                tasks.append(again_and_again(playground.type, seen, until, (3, 8)))

        await asyncio.gather(*tasks)

    return seen


def spread(seconds: list[float]) -> dict[str, float]:
    return {
        "number": len(seconds),
        "median_seconds": round(statistics.median(seconds), 3),
        "p95_seconds": round(statistics.quantiles(seconds, n=20)[18], 3),
        "most_seconds": round(max(seconds), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=40, help="of each window")
    parser.add_argument("--open", type=int, default=50)
    parser.add_argument("--writing", type=int, default=5)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    folder: Path | None = smollm2()
    if folder is None:
        print("There is no base model here: make setup adds one.")
        return 1

    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{processor_name()}, {os.cpu_count()} processors",
        "load_before": round(os.getloadavg()[0], 1),
        "versions": versions(),
    }

    with running_platform(variables={"DEEPEXTENSION_REQUESTS_PER_MINUTE": "100000"}) as platform:
        model = model_added(platform, folder)
        number = next(
            row["id"] for row in platform.get("models/")["results"] if row["slug"] == model
        )
        target = f"model-{number}"
        seen = asyncio.run(
            many(platform, target, options.open, options.writing, options.people, 60)
        )
        found["many"] = {
            "open": options.open,
            "writing": options.writing,
            "people": options.people,
            "errors": seen.errors,
            "pages": spread(seen.pages),
            "counts": spread(seen.counts),
            "first_word_median_seconds": round(statistics.median(seen.first), 2),
            "tokens_a_second": round(seen.tokens / 60, 1),
        }
        found["beside_a_train"] = beside_a_train(
            platform, model, target, options.rounds, options.seconds
        )

    print(json.dumps(found, indent=1))
    if options.write:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")

    return 0


if __name__ == "__main__":
    sys.exit(main())
