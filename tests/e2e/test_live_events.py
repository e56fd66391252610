"""A running train, followed over HTTP while things break: no logged step is missed or doubled."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
import requests

from tests.e2e.test_faults import LONG
from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

pytestmark = pytest.mark.long

SECONDS = 90


@pytest.fixture
def running(platform: Platform) -> Iterator[dict]:
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    run = platform.training(platform.start(dataset, **LONG), step=2)
    yield run
    platform.api("POST", f"trains/{run['id']}/stop/", json={"discard": True})
    platform.ended(run)


def messages(platform: Platform, run: dict, last: str) -> Iterator[tuple[str, dict]]:
    """(id, data) of each event until the connection breaks, as a browser that knows `last` asks."""
    answer = asked(platform, run, last)
    assert answer.status_code == 200, answer.text
    with suppress(requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
        seq = ""
        for line in answer.iter_lines(chunk_size=1):
            if line.startswith(b"id: "):
                seq = line[4:].decode()
            elif line.startswith(b"data: ") and seq:
                yield seq, json.loads(line[6:])
                seq = ""


def asked(platform: Platform, run: dict, last: str) -> requests.Response:
    """The answer. Again where a server that is leaving closes the connection without one, as a
    browser does."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return platform.api(
                "GET",
                f"trains/{run['id']}/events/",
                headers={"Accept": "text/event-stream", "Last-Event-ID": last},
                stream=True,
            )
        except requests.exceptions.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def crash(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def reload(processes: list[psutil.Process]) -> None:
    """New workers in place of the old ones, which end in order."""
    family = {process.pid for process in processes}
    master = next(process for process in processes if process.ppid() not in family)
    master.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("restart", [crash, reload])
def test_a_web_server_that_is_restarted_costs_its_pages_no_step(platform, running, restart):
    deadline = time.monotonic() + SECONDS
    before = list(itertools.islice(messages(platform, running, "0"), 3))
    stream = messages(platform, running, before[-1][0])
    before.append(next(stream))
    restart(platform.processes("manage.py", "web"))
    before += stream

    wait_for_pages(platform, deadline)
    after = []
    for message in messages(platform, running, before[-1][0]):
        after.append(message)
        # The train goes on meanwhile; not every message brings a step.
        if len(after) >= 3 and message[1]["rows"]:
            break

    assert after[-1][1]["rows"]
    rows = [row for _, message in before + after for row in message["rows"]]
    steps = [row["step"] for row in rows if row["split"] == "train"]
    assert steps == list(range(1, len(steps) + 1))


def wait_for_pages(platform: Platform, deadline: float) -> None:
    while True:
        with suppress(requests.exceptions.RequestException):
            if requests.get(f"{platform.url}/healthz", timeout=5).ok:
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_whoever_signs_out_hears_no_more(platform: Platform, running: dict):
    session = platform.session("alice")
    cookies = session.cookies.copy()
    answer = requests.get(
        f"{platform.url}/api/v1/trains/{running['id']}/events/",
        cookies=cookies,
        headers={"Accept": "text/event-stream"},
        stream=True,
        timeout=60,
    )
    lines = answer.iter_lines(chunk_size=1)
    assert next(lines).startswith(b"id: ")

    page = session.get(f"{platform.url}/trains/", timeout=60)
    token = page.text.partition('name="csrf-token" content="')[2].partition('"')[0]
    left = session.post(
        f"{platform.url}/logout/",
        headers={"X-CSRFToken": token, "Referer": platform.url},
        timeout=60,
    )
    assert left.ok
    del platform.sessions["alice"]
    began = time.monotonic()
    assert b"event: closed" in list(lines)
    assert time.monotonic() - began < 30
