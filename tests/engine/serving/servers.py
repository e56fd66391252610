"""Model servers for tests: a tiny base model with an adapter, served by each backend."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from engine.serving.order import Adapter, Ready, ServeOrder
from tests.live import ROOT

TUNED = "train-1"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTION = [{"role": "user", "content": "What colour is the sky?"}]
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """A model server that is ready."""

    def __init__(self, ready: Ready, backend: str) -> None:
        self.ready, self.backend = ready, backend

    def open(self, path: str, body: Any, *, key: str = "", bearer: str | None = None) -> IO[bytes]:
        """key: of the adapter, whose extra fields the request gets."""
        if isinstance(body, dict) and path.startswith("/v1/"):
            body = body | self.ready.extras[key]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self.ready.key if bearer is None else bearer}",
        }
        request = urllib.request.Request(self.ready.url + path, data, headers)
        return OPENER.open(request, timeout=60)

    def post(self, path: str, body: Any, **options: Any) -> Any:
        with self.open(path, body, **options) as answer:
            return json.load(answer)

    def refused(self, path: str, body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
        """(status, the error)."""
        try:
            answer = self.post(path, body, **options)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]
        raise AssertionError(f"not refused: {answer}")

    def chat(self, *, key: str = "", **fields: Any) -> Any:
        body = {"messages": QUESTION, "temperature": 0, "max_tokens": 24} | fields
        return self.post(CHAT, body, key=key)

    def text(self, **fields: Any) -> str:
        content = self.chat(**fields)["choices"][0]["message"]["content"]
        assert isinstance(content, str)
        return content

    def events(self, body: dict[str, Any], path: str = CHAT, **options: Any) -> list[Any]:
        """What a stream says, up to its [DONE]."""
        with self.open(path, body | {"stream": True}, **options) as answer:
            lines = [line[6:].strip() for line in answer if line.startswith(b"data: ")]
        assert lines.pop() == b"[DONE]"
        return [json.loads(line) for line in lines]


class ServerProcess:
    """`python -m engine.serving` with this order."""

    def __init__(self, order: ServeOrder) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.serving"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(order)) + "\n")
        self.process.stdin.flush()
        self.said: list[dict[str, Any]] = []
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            if "phase" not in self.said[-1]:
                break

    @property
    def ready(self) -> Ready:
        return Ready(**self.said[-1]["ready"])

    def end(self) -> int:
        """Close its standard input; returns its exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(20)


def order_of(backend: str, base: Path, adapter: Path) -> ServeOrder:
    return ServeOrder(backend, str(base), [Adapter(TUNED, str(adapter))], parallel=2, threads=1)
