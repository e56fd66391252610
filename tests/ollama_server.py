"""Enough of Ollama, on this machine, for a model to be created in it."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


@dataclass
class FakeOllama:
    """`blobs`: {digest: content}. `models`: {name: the request that created it}. `asked`: (method,
    path) of every request.

    `wrong`: what goes wrong: "nonsense", "silence", "redirect", "refused", "bad blob", "error
    midway", "no models", "cut" or "drip". `elsewhere`: the address of a redirect."""

    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    wrong: str = ""
    elsewhere: str = ""
    ended: Event = field(default_factory=Event)


@contextmanager
def running_ollama() -> Iterator[FakeOllama]:
    ollama = FakeOllama()
    handler = type("Handler", (_Handler,), {"ollama": ollama})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    ollama.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield ollama
    finally:
        ollama.ended.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    ollama: FakeOllama
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        if self.is_answered():
            return
        self.json({"version": "0.12.0"})

    def do_HEAD(self) -> None:
        if self.is_answered():
            return
        digest = self.path.rpartition("/")[2]
        self.answer(200 if digest in self.ollama.blobs else 404, b"")

    def do_POST(self) -> None:
        if self.is_answered():
            return
        if self.path.startswith("/api/blobs/"):
            self.blob(self.path.rpartition("/")[2])
            return
        asked = json.loads(self.body())
        if self.path == "/api/show" and self.ollama.wrong == "no models":
            self.json({"error": "disk I/O error"}, 500)
        elif self.path == "/api/show":
            self.json(
                {} if asked["model"] in self.ollama.models else {"error": "not found"},
                200 if asked["model"] in self.ollama.models else 404,
            )
        elif self.path == "/api/create":
            self.create(asked)
        else:
            self.json({"error": "404 page not found"}, 404)

    def is_answered(self) -> bool:
        """Whether what goes wrong is this server as a whole."""
        self.ollama.asked.append((self.command, self.path))
        match self.ollama.wrong:
            case "nonsense":
                self.answer(200, b"<html>It works!</html>")
            case "silence":
                self.ollama.ended.wait(60)
            case "drip":
                self.drip()
            case "redirect":
                self.answer(307, b"", {"Location": self.ollama.elsewhere + self.path})
            case "refused":
                self.answer(401, b"")
            case _:
                return False
        self.close_connection = True
        return True

    def drip(self) -> None:
        """An answer of a byte now and then."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        with suppress(ConnectionError):
            while not self.ollama.ended.wait(0.1):
                self.wfile.write(b" ")

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def blob(self, digest: str) -> None:
        content = self.body()
        real = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if digest != real or self.ollama.wrong == "bad blob":
            self.json({"error": f"digest mismatch, expected {digest}"}, 400)
            return
        self.ollama.blobs[digest] = content
        self.answer(201, b"")

    def create(self, asked: dict[str, Any]) -> None:
        if not all(digest in self.ollama.blobs for digest in asked["files"].values()):
            self.json({"error": "blob not found"}, 400)
            return
        lines: list[dict[str, Any]] = [{"status": "parsing GGUF"}, {"status": "writing manifest"}]
        if self.ollama.wrong == "error midway":
            lines[1:] = [{"error": "template error: unexpected EOF"}]
        elif self.ollama.wrong != "cut":
            lines.append({"status": "success"})
            self.ollama.models[asked["model"]] = asked
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            text = json.dumps(line).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
            time.sleep(0.01)
        self.wfile.write(b"0\r\n\r\n")

    def json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
