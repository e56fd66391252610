"""Somebody who talks to a model all the time while things break.

    python -m tests.chaos.chat PLACEMENT

asks until standard input closes, in the environment of a platform, and prints a line of JSON for
each question: how it ended. An answer may end with a reason; it may not end without a last word, nor
be silent for ever."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

from tests.live import ROOT, Platform

# Loading, and a server that hangs for STUCK_SECONDS, on a machine that is busy.
SILENT_SECONDS = 120
ANSWERED, TOLD, SILENT = "answered", "told why not", "silent"
LAST_SECONDS = 180


class Chat:
    """The program, and what it saw. From begin() to end()."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.ends: Counter[str] = Counter()
        self.problems: list[str] = []

    def begin(self) -> None:
        rows = self.platform.get("models/")["results"]
        (model,) = (row for row in rows if row["slug"] == "tiny")
        placement = {
            "base_key": f"model-{model['id']}",
            "base_path": str(self.platform.home / "models" / str(model["id"])),
            "size_bytes": model["size_bytes"],
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.chat", json.dumps(placement)],
            cwd=ROOT,
            # Written otherwise: what kills all of a home's processes leaves this one.
            env=self.platform.env | {"DEEPEXTENSION_HOME": f"{self.platform.home}/"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            self.ends[told["end"]] += 1
            if told["end"] == SILENT:
                self.problems.append(f"a question had no answer and no reason: {told['last']}")

    def end(self) -> list[str]:
        """What was wrong. Nothing may be stuck: it is answered once more."""
        answered, deadline = self.ends[ANSWERED], time.monotonic() + LAST_SECONDS
        while self.ends[ANSWERED] == answered and time.monotonic() < deadline:
            time.sleep(0.2)
        if self.ends[ANSWERED] == answered:
            self.problems.append("nobody is answered any more")

        assert self.process.stdin is not None
        self.process.stdin.close()
        self.reader.join(SILENT_SECONDS + 10)
        self.process.wait(10)
        return self.problems


async def ask(placement: Any) -> tuple[str, str]:
    """(how it ended, what was heard last)."""
    from serving.answering import CHAT, AnswerProblem, answer_stream

    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "What colour is the sky?"}],
        "max_tokens": 64,
    }
    last = ""
    stream = answer_stream(placement, CHAT, body)
    try:
        while True:
            async with asyncio.timeout(SILENT_SECONDS):
                last = repr(await anext(stream))
    except StopAsyncIteration:
        return ANSWERED, last
    except AnswerProblem as problem:
        return TOLD, problem.code
    except TimeoutError:
        return SILENT, last
    finally:
        await stream.aclose()


async def main() -> None:
    from serving.targets import Placement

    placement = Placement(**json.loads(sys.argv[1]))
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, is_over.set)
    while not is_over.is_set():
        end, last = await ask(placement)
        sys.stdout.write(json.dumps({"end": end, "last": last}) + "\n")
        sys.stdout.flush()
        if end != ANSWERED:
            await asyncio.sleep(0.5)

    os._exit(0)


if __name__ == "__main__":
    import django

    django.setup()
    asyncio.run(main())
