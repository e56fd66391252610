"""A real Chromium on a real platform. Every page is watched: an error on its console fails the
test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from core.store import datasets_folder, models_folder, runs_folder
from jobs.devices.presence import KEY
from jobs.devices.sharing import LOADED
from serving import overview
from tests.browser.used_home import serving_state, used_home
from tests.live import PASSWORDS, ROOT, Platform

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-gpu",
)


def chromium() -> str | None:
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """A Chromium, for as long as the block lasts; the test is skipped where there is none."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine")
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=[*QUIET, *sandbox])
        yield running
        running.close()


# By module, not by session: Playwright keeps an event loop in this thread, beside which Django
# refuses database calls.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, platform: Platform) -> Iterator[Callable[..., Page]]:
    """A signed-in page of the given size and colours; console errors and failed scripts are
    collected."""
    errors: list[str] = []
    contexts = []

    def collect(message: ConsoleMessage) -> None:
        # A refused form answers 4xx on purpose, and Chromium says so on the console.
        if message.type == "error" and "status of 4" not in message.text:
            errors.append(f"{message.location.get('url')}: {message.text}")

    def make(*, by: str = "alice", size: dict[str, int] = DESKTOP, dark: bool = False) -> Page:
        context = browser.new_context(
            base_url=platform.url,
            viewport=size,
            color_scheme="dark" if dark else "light",
            timezone_id="Europe/Zurich",
            accept_downloads=True,
            has_touch=size is PHONE,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", collect)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto("/login/")
        page.get_by_label("Name", exact=True).fill(by)
        page.get_by_label("Password", exact=True).fill(PASSWORDS[by])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/trains/")
        return page

    yield make
    for context in contexts:
        context.close()
    assert errors == []


COLOURS_SETTLED = """async () => {
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const transitions = document.getAnimations().filter((one) => one instanceof CSSTransition);
  await Promise.all(transitions.map((one) => one.finished.catch(() => null)));
}"""


def axe_violations(page: Page) -> list[str]:
    """What axe-core finds of level serious or critical, as lines to read."""
    # Through the debugger, not a script tag: the Content-Security-Policy stays as it is.
    page.evaluate(AXE.read_text())
    # Colours that glide into those of another theme are none that anybody reads.
    page.evaluate(COLOURS_SETTLED)
    found = page.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def until(page: Page, expression: str, seconds: float = 60) -> None:
    """Wait until a JavaScript function says true. Playwright's own wait needs `unsafe-eval`, which
    our pages deny."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {expression}"
        page.wait_for_timeout(100)


def overflows(page: Page) -> bool:
    """Whether the page scrolls sideways."""
    return bool(
        page.evaluate(
            "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
    )


@pytest.fixture
def worker_with_gpu() -> Iterator[None]:
    """A queue, and in it the word of a worker on another machine that it is there."""
    command = [sys.executable, "manage.py", "redis"]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    redis = Redis(
        unix_socket_path=str(settings.REDIS_SOCKET), retry=Retry(ConstantBackoff(0.1), 1200)
    )
    device = {
        "kind": "cuda",
        "name": "NVIDIA RTX 6000 Ada Generation Laptop GPU",
        "memory_gb": 47.9,
        "identity": "0",
    }
    presence = {"name": "far", "host": "gpu-server-basement-2", "process": "", "device": device}
    redis.set(f"{KEY}far", json.dumps(presence))
    # Models are loaded there too.
    redis.set(f"{LOADED}{presence['host']}", json.dumps([device["identity"]]))
    yield
    server.terminate()
    server.wait(30)


@pytest.fixture
def home(live_server, worker_with_gpu, tmp_path, monkeypatch) -> Iterator[dict[str, str]]:
    """Ids of what a much used home shows; its pages are served from this process, and nothing in it
    ever changes."""
    ids = used_home(tmp_path)
    monkeypatch.setattr(overview, "gateway_state", lambda: serving_state(ids))
    yield ids
    for folder in (datasets_folder(), models_folder(), runs_folder()):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def at_home(live_server, home, client) -> Callable[..., AbstractContextManager[BrowserContext]]:
    """A browser in which Alice, a superuser, is signed in; an error on the console of any page
    fails the test."""
    client.force_login(User.objects.get(username="alice"))
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    cookie = {"name": settings.SESSION_COOKIE_NAME, "value": session, "url": live_server.url}

    @contextmanager
    def make(**options: Any) -> Iterator[BrowserContext]:
        errors: list[str] = []

        def collect(message: ConsoleMessage) -> None:
            if message.type == "error" and "status of 4" not in message.text:
                errors.append(message.text)

        with launched() as running:
            context = running.new_context(base_url=live_server.url, **options)
            context.add_cookies([cookie])
            context.on("console", collect)
            context.on("weberror", lambda error: errors.append(str(error.error)))
            yield context
            context.close()
        assert errors == []

    return make
