"""The page that a browser sees while the platform starts."""

from __future__ import annotations

import socket
import threading

import pytest
import requests

from core.starting import starting_page, starting_page_leave
from tests.live import free_port


@pytest.fixture
def address(settings, tmp_path) -> str:
    settings.HOST, settings.PORT, settings.HOME = "127.0.0.1", free_port(), tmp_path
    return f"http://127.0.0.1:{settings.PORT}"


def test_every_address_says_that_the_platform_is_starting_and_asks_again_by_itself(address):
    with starting_page() as page:
        page.phase = "Setting up <the> database …"
        for path in ("/", "/trains/?page=2", "/api/v1/trains/", "/no-such-page/"):
            answer = requests.get(address + path, timeout=5)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert "DeepExtension is starting" in answer.text
            assert "Setting up &lt;the&gt; database" in answer.text
        assert requests.post(address, data={"a": "b" * 5000}, timeout=5).status_code == 503
        state = requests.get(f"{address}/healthz", timeout=5).json()
        assert state == {
            "status": "unavailable",
            "starting": True,
            "phase": "Setting up <the> database …",
        }
        script = requests.get(f"{address}/starting.js", timeout=5)
        assert "location.reload()" in script.text
        assert script.headers["Content-Type"].startswith("text/javascript")


def test_it_makes_room_for_the_web_server(address, settings):
    with starting_page():
        starting_page_leave()
        with socket.socket() as server:
            server.bind((settings.HOST, settings.PORT))


def test_a_connection_that_says_nothing_does_not_keep_others_from_the_page(address, settings):
    with starting_page():
        silent = [socket.create_connection((settings.HOST, settings.PORT)) for _ in range(3)]
        assert requests.get(address, timeout=10).status_code == 503
        for connection in silent:
            connection.close()


def test_where_somebody_else_has_the_port_there_is_no_page(address, settings):
    with socket.socket() as other:
        other.bind((settings.HOST, settings.PORT))
        other.listen()
        before = threading.active_count()
        with starting_page() as page:
            page.phase = "anything"
            assert threading.active_count() == before


def test_the_port_is_free_once_the_start_is_over(address, settings):
    with starting_page():
        pass
    with socket.socket() as server:
        server.bind((settings.HOST, settings.PORT))
