"""A real S3 server in a process of its own, and what may stand between it and us: a line that is
cut, stalls, or is slow."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests

from engine.storage.settings import StorageSettings
from tests.live import free_port

KEY, SECRET = "tests-key", "tests-secret-0123456789"
START_SECONDS = 60


class S3Server:
    """moto's server: it keeps what it has in memory. `url`: where it listens."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.buckets = 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=log,
                stderr=log,
            )

        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{self.url}/moto-api/", timeout=5)
                return

            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def settings(self, endpoint: str | None = None) -> StorageSettings:
        """Of a bucket that is new."""
        self.buckets += 1
        name = f"bucket-{self.buckets}"
        requests.put(f"{self.url}/{name}", timeout=10).raise_for_status()
        return StorageSettings(
            f"s3://{name}/a/prefix", endpoint or self.url, "us-east-1", KEY, SECRET
        )


class Proxy:
    """Passes bytes on to `port`, as long as it is told to. Used as a block."""

    def __init__(self, port: int) -> None:
        self.target = port
        # What is let through before every other line breaks; None: all.
        self.cut_after: int | None = None
        self.is_away = False
        self.stalls = False
        # A byte now and then.
        self.creeps = False
        self.seen = 0
        self.answered = 0
        self.lines: set[socket.socket] = set()

    def __enter__(self) -> Proxy:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.listener.close()
        self.cut()

    def away(self, is_away: bool = True) -> None:
        """Nobody gets through any more, and whoever is through is cut off."""
        self.is_away = is_away
        if is_away:
            self.cut()

    def cut(self) -> None:
        for line in list(self.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return

            self.seen += 1
            if self.is_away:
                client.close()
                continue

            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            self.lines |= {client, server}
            left = self.cut_after if self.seen % 2 else None
            try:
                while not self.is_away:
                    ready, _, _ = select.select([client, server], [], [], 0.05)
                    if self.stalls:
                        time.sleep(0.05)
                        continue

                    for line in ready:
                        is_slow = self.creeps and line is server
                        block = line.recv(1 if is_slow else 1 << 16)
                        if is_slow:
                            time.sleep(0.05)
                        if not block:
                            return

                        if line is client:
                            server.sendall(block)
                            continue

                        self.answered += len(block)
                        if left is not None:
                            block, left = block[:left], left - len(block)
                        client.sendall(block)
                        if left is not None and left <= 0:
                            return
            except OSError:
                return
            finally:
                self.lines -= {client, server}
