"""Every page at every width, light and dark: nothing scrolls sideways, nothing is too narrow to read, nothing overlaps,
nothing is cut beside room, nothing jumps while it loads, and axe finds nothing serious."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from playwright.sync_api import Page
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from core.store import datasets_folder, models_folder, runs_folder
from tests.browser.conftest import axe_violations, launched
from tests.browser.used_home import used_home
from tests.live import ROOT
from training.worker import KEY

LAYOUT = (Path(__file__).parent / "layout.js").read_text()
PHONE = 390
# The last three: 1,280, 1,440 and 1,920 pixels at a zoom of 140 %.
WIDTHS = (390, 768, 992, 1024, 1100, 1200, 1280, 1366, 1440, 1920, 914, 1029, 1371)
LARGEST_SHIFT = 0.1
SHIFTS = """
addEventListener("DOMContentLoaded", () => document.documentElement.dataset.watched = "1");
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""

PAGES = (
    "/trains/",
    "/trains/?search=rank&status=finished&method=lora&page=2",
    "/trains/?search=nothing-of-that-name",
    "/trains/new/",
    *(f"/trains/new/{method}/" for method in ("lora", "sft", "kto", "reward", "ppo")),
    "/trains/new/dpo/?dataset={pairs}",
    "/trains/new/grpo/?dataset={prompts}",
    "/trains/new/lora/?copy={finished}",
    "/trains/{finished}/",
    "/trains/{running}/",
    "/trains/{waiting}/",
    "/trains/{failed}/",
    "/trains/{finished}/evaluation/",
    "/trains/{grpo}/evaluation/",
    "/trains/{running}/log/",
    "/trains/compare/",
    "/trains/compare/?ids={finished}",
    "/trains/compare/?ids={two}",
    "/trains/compare/?ids={four}&all=1",
    "/trains/compare/?ids={six}",
    "/datasets/",
    "/datasets/?search=nothing-of-that-name",
    "/datasets/new/",
    "/datasets/import/",
    "/datasets/{chat}/",
    "/datasets/{chat}/?view=tokens",
    "/datasets/{chat}/?view=raw",
    "/datasets/{chat}/edit/",
    "/datasets/{pairs}/",
    "/datasets/{checking}/",
    "/datasets/{unusable}/",
    "/models/",
    "/models/new/",
    "/models/new/?way=folder",
    "/models/new/?way=gguf",
    "/models/{model}/",
    "/models/{importing}/",
    "/models/{broken}/",
    "/methods/",
    "/no-such-page/",
    "/api/v1/docs/",
    "/admin/",
    "/admin/training/trainrun/",
    "/admin/training/trainrun/{finished}/change/",
    "/admin/datasets_app/dataset/",
    "/admin/models_app/basemodel/",
    "/admin/methods/trainingmethod/",
    "/admin/auth/user/",
    "/admin/queue/",
    "/login/",
)


@pytest.fixture
def worker_with_gpu() -> Iterator[None]:
    """A queue, and in it the word of a worker on another machine that it is there."""
    command = [sys.executable, "manage.py", "redis"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    redis = Redis(unix_socket_path=str(settings.REDIS_SOCKET), retry=Retry(ConstantBackoff(0.1), 200))
    device = {"kind": "cuda", "name": "NVIDIA RTX 6000 Ada Generation Laptop GPU", "memory_gb": 47.9, "identity": "0"}
    presence = {"name": "far", "host": "gpu-server-basement-2", "process": "", "device": device}
    redis.set(f"{KEY}far", json.dumps(presence))
    yield
    server.terminate()
    server.wait(30)


@pytest.fixture
def home(live_server, worker_with_gpu, tmp_path) -> Iterator[dict[str, str]]:
    yield used_home(tmp_path)
    for folder in (datasets_folder(), models_folder(), runs_folder()):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("theme", "first"), [("light", 1440), ("dark", PHONE)])
def test_every_page_is_sound_at_every_width(live_server, client, home, theme, first):
    client.force_login(User.objects.get(username="alice"))
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    failures: list[str] = []
    with launched() as browser:
        context = browser.new_context(
            base_url=live_server.url, color_scheme=theme, viewport={"width": first, "height": 900}
        )
        context.add_init_script(SHIFTS)
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": live_server.url}])
        page = context.new_page()
        page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: failures.append(str(error)))
        for template in pages():
            failures += walked(page, template.format(**home), first)
        context.close()
    assert not failures, "\n".join(failures)


def pages() -> list[str]:
    """All of them, or those whose address holds $WALK: for work on one page."""
    return [page for page in PAGES if os.environ.get("WALK", "") in page]


def walked(page: Page, path: str, first: int) -> list[str]:
    """Load `path` at the width `first`, walk through all widths, and return what is wrong."""
    page.set_viewport_size({"width": first, "height": 900})
    page.goto(path, wait_until="load")
    # What polls is never idle; scripts draw within a few frames.
    page.wait_for_timeout(300)
    found = [f"axe: {violation}" for violation in axe_violations(page)]
    shift = page.evaluate("window.shifts")
    if shift > LARGEST_SHIFT:
        found.append(f"shifts by {shift:.2f} while it loads")
    lines = [f"{path}: {line}" for line in found]
    places: dict[str, tuple[str, list[int]]] = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        for fault in page.evaluate(LAYOUT, {"targets": width == PHONE and "/admin/" not in path}):
            places.setdefault(fault["key"], (fault["line"], []))[1].append(width)
        photograph(page, path, width)
    return lines + [f"{path} at {', '.join(map(str, at))}: {line}" for line, at in places.values()]


def photograph(page: Page, path: str, width: int) -> None:
    """Into $SCREENSHOTS, where somebody wants to look."""
    folder = os.environ.get("SCREENSHOTS")
    if folder is None or width not in (PHONE, 1024, 1200, 1440):
        return
    theme = page.evaluate("document.documentElement.dataset.bsTheme")
    name = path.strip("/").replace("/", "_").replace("?", "_")[:60]
    Path(folder).mkdir(parents=True, exist_ok=True)
    page.screenshot(path=Path(folder) / f"{name}-{width}-{theme}.png", full_page=True)
