"""The whole platform on this machine: its processes under one supervisor, and whether they
answer."""

from __future__ import annotations

import contextlib
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
from core.processes import ADMIN_PASSWORD, SUPERVISED
from core.starting import starting_page
from engine.process.isolation import die_with_parent

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

    Raises CannotServe where this home is being served already, the port is taken, or the start
    fails."""
    with home_lock(), contextlib.ExitStack() as until_ready:
        if words := newer_database():
            raise CannotServe(words)

        _require_port()
        (settings.HOME / "logs").mkdir(exist_ok=True, mode=0o700)
        server = subprocess.Popen(  # noqa: S603
            [
                sys.executable,
                "-m",
                "core.supervise",
                "-c",
                str(settings.BASE_DIR / "supervisord.conf"),
            ],
            cwd=settings.BASE_DIR,
            # The password of the first account is for set-up alone.
            env={name: value for name, value in os.environ.items() if name != ADMIN_PASSWORD}
            | {
                "DEEPEXTENSION_HOME": str(settings.HOME),
                "PORT": str(settings.PORT),
                "PYTHON": sys.executable,
                SUPERVISED: "1",
            },
            # It logs to logs/. On a full disk it complains on stderr instead, and where that is a
            # file on the same disk the complaint itself would end it, and everything with it.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Of its own group: Ctrl-C reaches this process alone, which then stops the rest in
            # order.
            process_group=0,
            preexec_fn=_with_parent(os.getpid()),
        )

        try:
            # After the fork: a thread beside it could leave locks behind.
            page = until_ready.enter_context(starting_page())
            page.phase = "Starting the web server …"
            _wait_until_healthy(server, say)
            until_ready.close()
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
    """Have this home to oneself, for serving it or for setting it up. Raises CannotServe where it
    is being served. The lock goes with the process, however that ends."""
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
            raise CannotServe(
                f"Port {settings.PORT} is taken. Choose another one: make run PORT=8001"
            ) from error


# What /healthz names, in the order in which it comes up, as a person at the terminal reads it.
PARTS = {
    "queue": "queue",
    "worker": "training worker",
}


def _wait_until_healthy(server: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
    began = time.monotonic()
    told: set[str] = set()
    say(
        "Starting DeepExtension: web server, queue, and the libraries that train (about a minute "
        "the first time) …"
    )

    while (state := health()).get("status") not in ("ok", "disk full"):
        if server.poll() is not None or time.monotonic() > began + START_SECONDS:
            raise CannotServe(f"The platform did not start. What it said last:\n{_last_words()}")

        _tell_progress(state, told, began, say)
        time.sleep(0.2)

    _tell_progress(state, told, began, say)


def _tell_progress(
    state: dict[str, Any], told: set[str], began: float, say: Callable[[str], None]
) -> None:
    """Name each part once, when it is there, with the time that it took since the start."""
    if not state or state.get("starting"):
        return

    ready = {"web": "web server"} | {
        name: title for name, title in PARTS.items() if state.get(name)
    }
    for name, title in ready.items():
        if name not in told:
            told.add(name)
            say(f"  {title} ready after {time.monotonic() - began:.0f} s")


def _last_words() -> str:
    lines = []
    for path in sorted(Path(settings.HOME / "logs").glob("*.log")):
        text = path.read_text(errors="replace").strip().splitlines()[-5:]
        lines += [f"{path.name}: {line}" for line in text]

    return "\n".join(lines)
