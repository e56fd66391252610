"""The whole platform on this machine: its processes under one supervisor, and whether they answer."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.conf import settings

from core.database_version import newer_database
from core.processes import SUPERVISED, die_with_parent

START_SECONDS = 180
STOP_SECONDS = 45


class CannotServe(Exception):
    """A reason, in words for the person at the terminal."""


def address(path: str = "/") -> str:
    """Where a browser on this machine finds the platform."""
    host = "127.0.0.1" if settings.HOST in ("0.0.0.0", "::") else settings.HOST  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.PORT}{path}"


def health() -> dict[str, Any]:
    """What /healthz says, {} where nothing answers."""
    try:
        with urllib.request.urlopen(address("/healthz"), timeout=5) as answer:  # noqa: S310
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        try:
            return dict(json.load(error))
        except ValueError:
            return {}
    except (OSError, ValueError):
        return {}


@contextmanager
def platform(say: Callable[[str], None]) -> Iterator[subprocess.Popen[bytes]]:
    """Start everything, wait until /healthz is content, and stop everything at the end.

    Raises CannotServe where this home is being served already, the port is taken, or the start fails.
    """
    with home_lock():
        if words := newer_database():
            raise CannotServe(words)
        _require_port()
        (settings.HOME / "logs").mkdir(exist_ok=True, mode=0o700)
        server = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(settings.BASE_DIR / "supervisord.conf")],
            cwd=settings.BASE_DIR,
            env=os.environ
            | {
                "DEEPEXTENSION_HOME": str(settings.HOME),
                "PORT": str(settings.PORT),
                "PYTHON": sys.executable,
                SUPERVISED: "1",
            },
            # It logs to logs/. On a full disk it complains on stderr instead, and where that is a file on the same disk
            # the complaint itself would end it, and everything with it.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Of its own group: Ctrl-C reaches this process alone, which then stops the rest in order.
            process_group=0,
            preexec_fn=_with_parent(os.getpid()),
        )
        try:
            _wait_until_healthy(server, say)
            yield server
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


def _with_parent(parent: int) -> Callable[[], None]:
    return lambda: die_with_parent(parent, signal.SIGTERM)


@contextmanager
def home_lock() -> Iterator[IO[str]]:
    """Have this home to oneself, for serving it or for setting it up. Raises CannotServe where it is being served. The
    lock goes with the process, however that ends."""
    with (settings.HOME / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotServe(
                f"DeepExtension is running already with {settings.HOME}. "
                "Stop it first, or give this copy a DEEPEXTENSION_HOME and a PORT of its own."
            ) from error
        yield lock


def _require_port() -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.HOST, settings.PORT))
        except OSError as error:
            raise CannotServe(f"Port {settings.PORT} is taken. Choose another one: make run PORT=8001") from error


def _wait_until_healthy(server: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + START_SECONDS
    said = ""
    while (state := health()).get("status") not in ("ok", "disk full"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise CannotServe(f"The platform did not start. What it said last:\n{_last_words()}")
        missing = ", ".join(name for name, there in state.items() if there is False) or "web"
        if missing != said:
            say(f"Starting: waiting for {missing} …")
            said = missing
        time.sleep(0.2)


def _last_words() -> str:
    lines = []
    for path in sorted(Path(settings.HOME / "logs").glob("*.log")):
        text = path.read_text(errors="replace").strip().splitlines()[-5:]
        lines += [f"{path.name}: {line}" for line in text]
    return "\n".join(lines)
