"""A real Chromium on a real platform. Every page is watched: an error on its console fails the test."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

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


# By module, not by session: Playwright keeps an event loop in this thread, beside which Django refuses database calls.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, platform: Platform) -> Iterator[Callable[..., Page]]:
    """A signed-in page of the given size and colours; console errors and failed scripts are collected."""
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


def axe_violations(page: Page) -> list[str]:
    """What axe-core finds of level serious or critical, as lines to read."""
    # Through the debugger, not a script tag: the Content-Security-Policy stays as it is.
    page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def until(page: Page, expression: str, seconds: float = 60) -> None:
    """Wait until a JavaScript function says true. Playwright's own wait needs `unsafe-eval`, which our pages deny."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {expression}"
        page.wait_for_timeout(100)


def overflows(page: Page) -> bool:
    """Whether the page scrolls sideways."""
    return bool(page.evaluate("() => document.documentElement.scrollWidth > document.documentElement.clientWidth"))


@pytest.fixture
def screenshots() -> Path:
    folder = Path(os.environ.get("SCREENSHOTS", "/tmp/deepextension-screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
