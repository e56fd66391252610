"""Clients that send or read slowly, in the middle of people who want pages."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from tests.live import ROOT, free_port

pytestmark = pytest.mark.long

SOCKETS_A_KIND = 70
DATASET_BYTES = 96 * 2**20
PIECE = 20_000


@dataclass
class Web:
    port: int
    process: subprocess.Popen
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def token(self) -> str:
        credentials = {"username": "alice", "password": "alice-password-1"}
        return requests.post(f"{self.url}/api/v1/auth/token/", json=credentials, timeout=60).json()[
            "token"
        ]

    def memory(self) -> int:
        return sum(child.memory_info().rss for child in psutil.Process(self.process.pid).children())


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    port, log = free_port(), home / "web.log"
    env = os.environ | {
        "DEEPEXTENSION_HOME": str(home),
        "PORT": str(port),
        "DJANGO_SETTINGS_MODULE": "deepextension.settings",
        "DATASET_BYTES": str(DATASET_BYTES),
        "WEB_PROCESSES": "1",
        "WEB_THREADS": "2",
        "WEB_CONNECTIONS_PER_ADDRESS": "400",
        # Otherwise this machine's own address is taken for a proxy's.
        "FORWARDED_ALLOW_IPS": "192.0.2.1",
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.web.server"],
            cwd=ROOT,
            env=env,
            stdout=stream,
            stderr=stream,
        )
    running = Web(port, process, log)
    deadline = time.monotonic() + 120
    while True:
        try:
            requests.get(f"{running.url}/login/", timeout=30)
            break
        except requests.ConnectionError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield running
    # Not in order, which gives the slow clients of these tests their time.
    for each in [*psutil.Process(process.pid).children(), process]:
        each.kill()
    process.wait(60)


def is_closed(connection: socket.socket, seconds: float = 60) -> bool:
    """Whether the server ends the connection, after an answer or without one."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


BEGINNINGS = {
    "silence": b"",
    "part of a head": b"GET /login/ HTTP/1.1\r\nHost: localhost\r\n",
    "part of a body": b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    b"100000\r\n\r\nusername=",
    "part of an upload": b"POST /datasets/upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    b"9000000\r\n\r\n--x",
    "part of a chunk": b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: "
    b"chunked\r\n\r\nffff\r\na",
}


def test_pages_answer_beside_hundreds_of_trickling_clients(web):
    """Of every kind at once, since each kind keeps the server waiting for the same seconds; of each
    many more than it has threads."""
    connections = [(kind, web.connect()) for kind in BEGINNINGS for _ in range(SOCKETS_A_KIND)]
    for kind, connection in connections:
        connection.sendall(BEGINNINGS[kind])
    for _ in range(20):
        assert requests.get(f"{web.url}/login/", timeout=60).status_code == 200
        for kind, connection in connections:
            # The server may have had enough of this one.
            with contextlib.suppress(OSError):
                connection.send(b"x" if kind != "silence" else b"")
    assert {kind for kind, connection in connections if not is_closed(connection)} == set()
    assert requests.get(f"{web.url}/login/", timeout=60).status_code == 200


def pieces(content: bytes, pause: float):
    """Like a line that is slow and steady: longer in all than any of the limits."""
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]
        time.sleep(pause)


def upload_body(rows: int) -> tuple[bytes, str]:
    content = b"prompt,completion\n" + b"Why?,Because.\n" * rows
    request = requests.Request(
        "POST", "http://x/", files={"file": ("rows.csv", content)}, data={"name": "rows"}
    )
    prepared = request.prepare()
    return prepared.body, prepared.headers["Content-Type"]


def test_a_slow_upload_that_goes_on_arrives(web):
    body, content_type = upload_body(rows=50_000)
    headers = {"Authorization": f"Token {web.token()}", "Content-Type": content_type}
    headers["Content-Length"] = str(len(body))
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=120)
    connection.request("POST", "/api/v1/datasets/", pieces(body, 0.15), headers)
    answer = connection.getresponse()
    assert answer.status == 201
    assert json.load(answer)["size_bytes"] == 18 + 14 * 50_000


@pytest.mark.parametrize(("size", "status"), [(30, 400), (1_000_000, 411)])
def test_a_body_in_chunks_may_be_small(web, size, status):
    """Small ones get a length on the way; of large ones nobody could say whether there is room for
    them."""
    headers = {"Authorization": f"Token {web.token()}", "Content-Type": "application/json"}
    body = b'{"name": "' + b"x" * size + b'"}'
    answer = requests.post(
        f"{web.url}/api/v1/trains/", data=iter([body]), headers=headers, timeout=60
    )
    assert answer.status_code == status
    assert answer.json()["error"]["code"] in ("invalid", "length_required")


def test_whoever_may_not_upload_hears_so_before_all_is_sent(web):
    body, content_type = upload_body(rows=500_000)
    headers = {"Content-Type": content_type, "Authorization": "Token wrong"}
    answer = requests.post(f"{web.url}/api/v1/datasets/", data=body, headers=headers, timeout=120)
    assert answer.status_code == 401


def test_an_upload_that_falls_silent_ends_and_leaves_nothing(web):
    body, content_type = upload_body(rows=100_000)
    connection = web.connect()
    head = (
        "POST /api/v1/datasets/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Token "
        f"{web.token()}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body[:600_000])
    assert is_closed(connection)
    folder = web.log.parent / "tmp"
    deadline = time.monotonic() + 60
    while list(folder.glob("upload-*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def download(web, piece=2**16):
    headers = {"Authorization": f"Token {web.token()}"}
    return requests.get(
        f"{web.url}/api/v1/datasets/large/file/", headers=headers, stream=True, timeout=60
    )


def test_a_large_download_is_not_held_in_memory(web):
    before = web.memory()
    with download(web) as answer:
        assert answer.status_code == 200
        count = most = 0
        for piece in answer.iter_content(2**20):
            count += len(piece)
            most = max(most, web.memory() - before)
    assert count == DATASET_BYTES
    assert most < DATASET_BYTES // 4


def test_pages_answer_beside_downloads_that_nobody_reads(web):
    answers = [download(web) for _ in range(8)]
    assert requests.get(f"{web.url}/login/", timeout=60).status_code == 200
    # Nobody reads for longer than the limit, so that the rest does not come.
    time.sleep(5)
    with pytest.raises(requests.RequestException):
        answers[0].content  # noqa: B018 - reads it
    for answer in answers:
        answer.close()


def test_a_kept_connection_takes_one_request_after_the_other(web):
    with requests.Session() as session:
        for path, status in (
            ("/login/", 200),
            ("/trains/", 302),
            ("/static/none", 404),
            ("/%ff/%00", 404),
        ):
            assert (
                session.get(f"{web.url}{path}", allow_redirects=False, timeout=60).status_code
                == status
            )
        assert session.head(f"{web.url}/login/", timeout=60).content == b""
        assert session.get(f"{web.url}/login/?q=%ff", timeout=60).status_code in (200, 400)


def test_a_web_socket_is_refused(web):
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert requests.get(f"{web.url}/login/", headers=headers, timeout=60).status_code == 403
    assert " ERROR " not in web.log.read_text()
