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
from core.devices import worker_count
from core.processes import ADMIN_PASSWORD, SUPERVISED
from core.starting import starting_page
from engine.process.isolation import die_with_parent

START_SECONDS = 180
STOP_SECONDS = 45
LOG_LINES = 5


class CannotServe(Exception):
    """Why the platform cannot be served, in words for the person at the terminal."""


def address(path: str = "/") -> str:
    """Where a browser on this machine finds the platform."""
    host = settings.HOST

    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    elif ":" in host:
        host = f"[{host}]"

    return f"http://{host}:{settings.PORT}{path}"


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
    """Start everything, wait until /healthz reports it healthy, and stop everything at the end.

    say: prints a line of progress. Raises CannotServe where this home is being served already, the
    port is taken, or the start fails.
    """
    with home_lock(), contextlib.ExitStack() as until_ready:
        if problem := newer_database():
            raise CannotServe(problem)

        _require_port()
        (settings.HOME / "logs").mkdir(exist_ok=True, mode=0o700)
        server = _supervisor_start(_worker_count(say))

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


def _worker_count(say: Callable[[str], None]) -> int:
    """One where the devices cannot be measured: its log says why, and everything else is served."""
    try:
        return worker_count()
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        say(
            "The devices of this machine cannot be measured: one worker is started, and its log says why"
        )
        return 1


def _supervisor_start(train_workers: int) -> subprocess.Popen[bytes]:
    configuration = settings.BASE_DIR / "supervisord.conf"
    parent = os.getpid()

    environment = os.environ | {
        "DEEPEXTENSION_HOME": str(settings.HOME),
        "PORT": str(settings.PORT),
        "PYTHON": sys.executable,
        "TRAIN_WORKERS": str(train_workers),
        "CLUSTER_WORKERS": str(settings.RAY_LANES if settings.RAY_ADDRESS else 0),
        SUPERVISED: "1",
    }
    # The password of the first account is for set-up alone.
    environment.pop(ADMIN_PASSWORD, None)

    return subprocess.Popen(  # noqa: S603 - a list of our own, no shell
        [sys.executable, "-m", "core.supervise", "-c", str(configuration)],
        cwd=settings.BASE_DIR,
        env=environment,
        # It logs to logs/. On a full disk it would complain on stderr instead, and if that is a
        # file on the same disk, failing to do so would end it, and everything with it.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A process group of its own: Ctrl-C reaches this process alone, which then stops the rest
        # in order.
        process_group=0,
        preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),
    )


@contextmanager
def home_lock() -> Iterator[IO[str]]:
    """Hold this home exclusively, for serving it or for setting it up. The kernel releases the
    lock however the process ends. Raises CannotServe where the home is being served."""
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
    family = socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET

    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.HOST, settings.PORT))
        except OSError as error:
            raise CannotServe(
                f"Port {settings.PORT} is taken. Choose another one: make run PORT=8001"
            ) from error


# Names of /healthz in the order in which the parts come up, and their titles at the terminal.
PARTS = {
    "web": "web server",
    "queue": "queue",
    "worker": "training worker",
}


def _wait_until_healthy(server: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
    progress = _Progress(say)
    say(
        "Starting DeepExtension: web server, queue, and the libraries that train (about a minute "
        "the first time) …"
    )

    while (state := health()).get("status") not in ("ok", "disk full"):
        if server.poll() is not None or progress.seconds > START_SECONDS:
            raise CannotServe(f"The platform did not start. The end of its logs:\n{_log_ends()}")

        progress.show(state)
        time.sleep(0.2)

    progress.show(state)


class _Progress:
    """Names each part once, as soon as it is ready, with the seconds since the start."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.started_at = time.monotonic()
        self.shown: set[str] = set()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_at

    def show(self, state: dict[str, Any]) -> None:
        """state: what /healthz answered; {} where it did not."""
        if not state or state.get("starting"):
            return

        for name, title in PARTS.items():
            # Whatever answers is the web server.
            is_ready = name == "web" or state.get(name)

            if is_ready and name not in self.shown:
                self.shown.add(name)
                self.say(f"  {title} ready after {self.seconds:.0f} s")


def _log_ends() -> str:
    """The last lines of each log."""
    ends: list[str] = []

    for path in sorted(Path(settings.HOME / "logs").glob("*.log")):
        lines = path.read_text(errors="replace").strip().splitlines()
        ends.extend(f"{path.name}: {line}" for line in lines[-LOG_LINES:])

    return "\n".join(ends)
