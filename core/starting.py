"""The page that a browser gets while the platform starts; it opens the platform as soon as that
answers.

It is served by the process that sets up or starts the platform, from a thread, until the web server
takes over the port (`starting_page_leave`). It answers everything with 503, needs nothing of the
platform and reads no more of a request than its first line."""

from __future__ import annotations

import contextlib
import html
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

LOOK_SECONDS = 0.1
REQUEST_SECONDS = 1.0
LEAVE_SECONDS = 5.0
LONGEST_REQUEST = 4096

PAGE = """<!doctype html>
<html lang="en-GB">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Starting · DeepExtension</title>
  <link rel="stylesheet" href="/starting.css">
  <script src="/starting.js" defer></script>
  <noscript><meta http-equiv="refresh" content="5"></noscript>
</head>
<body>
  <main>
    <h1>DeepExtension is starting</h1>
    <p>This takes about a minute, and some minutes the very first time. The page opens by itself.</p>
    <p id="phase" role="status">{phase}</p>
  </main>
</body>
</html>
"""

STYLE = """:root { color-scheme: light dark; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; font: 16px/24px system-ui, sans-serif;
  background: #f6f7f9; color: #16202e; }
main { max-width: 440px; margin: 16px; padding: 32px; border: 1px solid #e3e7ed; border-radius: 8px; background: #fff; }
h1 { margin: 0 0 8px; font-size: 22px; line-height: 28px; }
p { margin: 8px 0 0; color: #465263; }
@media (prefers-color-scheme: dark) {
  body { background: #0d1218; color: #e7ecf3; }
  main { background: #141b24; border-color: #242f3d; }
  p { color: #aeb9c8; }
}
"""

SCRIPT = """// Asks until the platform itself answers, and opens it then.
(() => {
  "use strict";
  const phase = document.getElementById("phase");
  async function look() {
    try {
      const state = await (await fetch("/healthz", { cache: "no-store" })).json();
      if (!state.starting) return location.reload();
      if (phase.textContent !== state.phase) phase.textContent = state.phase;
    } catch {
      // Between this page and the platform nobody answers for a moment.
    }
    setTimeout(look, 1000);
  }
  look();
})();
"""

HEADERS = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    "Content-Type: {kind}; charset=utf-8\r\n"
    "Content-Length: {length}\r\n"
    "Retry-After: 5\r\n"
    "Cache-Control: no-store\r\n"
    "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; connect-src "
    "'self'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n\r\n"
)


class StartingPage:
    """Serves the page from a thread. `phase`: what it says is being done."""

    def __init__(self, listener: socket.socket) -> None:
        self.phase = "Starting …"
        self._listener = listener
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="starting-page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(LEAVE_SECONDS)

    def _serve(self) -> None:
        with self._listener:
            self._listener.settimeout(LOOK_SECONDS)
            while not self._closing.is_set() and not _leave_file().exists():
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    continue
                except OSError:
                    return

                with connection, contextlib.suppress(OSError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        # One request after the other, so that none may take long.
        connection.settimeout(REQUEST_SECONDS)
        request = connection.recv(LONGEST_REQUEST)
        path = _path_of(request)

        kind, text = self._body(path)
        body = text.encode()
        headers = HEADERS.format(kind=kind, length=len(body))
        connection.sendall(headers.encode() + body)

    def _body(self, path: bytes) -> tuple[str, str]:
        if path == b"/healthz":
            state = {"status": "unavailable", "starting": True, "phase": self.phase}
            return "application/json", json.dumps(state)

        if path == b"/starting.js":
            return "text/javascript", SCRIPT
        if path == b"/starting.css":
            return "text/css", STYLE

        return "text/html", PAGE.format(phase=html.escape(self.phase))


def _path_of(request: bytes) -> bytes:
    """The path in the first line of an HTTP request, "/" where it has none."""
    line = request.partition(b"\r\n")[0]
    words = line.split(b" ")
    if len(words) != 3:
        return b"/"

    return words[1].partition(b"?")[0]


class _NoPage(StartingPage):
    """For a port that is not free: the process that has it answers."""

    def __init__(self) -> None:
        self.phase = ""

    def close(self) -> None:
        pass


@contextlib.contextmanager
def starting_page() -> Iterator[StartingPage]:
    """Serve the page on the platform's port until the block ends or the web server takes over the
    port."""
    _leave_file().unlink(missing_ok=True)
    try:
        page = StartingPage(_listener())
    except OSError:
        page = _NoPage()

    try:
        yield page
    finally:
        page.close()


def starting_page_leave() -> None:
    """Called by the web server before it takes the port: waits until it is free, for some seconds
    at most."""
    _leave_file().touch()
    deadline = time.monotonic() + LEAVE_SECONDS

    while time.monotonic() < deadline:
        try:
            _listener().close()
            return
        except OSError:
            time.sleep(LOOK_SECONDS / 2)


def _listener() -> socket.socket:
    """A socket that listens on the platform's port. Raises OSError where it is taken."""
    family = socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET
    listener = socket.socket(family)

    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.HOST, settings.PORT))
        listener.listen(64)
    except OSError:
        listener.close()
        raise

    return listener


def _leave_file() -> Path:
    path: Path = settings.HOME / "starting.leave"
    return path
