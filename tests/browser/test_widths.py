"""Every page at every width, light and dark: nothing scrolls sideways, nothing is too narrow to
read, nothing overlaps, nothing is cut beside room, nothing jumps while it loads, and axe finds
nothing serious."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import axe_violations
from tests.live import ROOT

STATIC = ROOT / "static"
LAYOUT = (Path(__file__).parent / "layout.js").read_text()
PHONE = 390
# The last three: 1,280, 1,440 and 1,920 pixels at a zoom of 140 %.
WIDTHS = (390, 768, 992, 1024, 1100, 1200, 1280, 1366, 1440, 1920, 914, 1029, 1371)
LARGEST_SHIFT = 0.1
SHIFTS = """
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
    "/trains/queue/",
    "/chains/",
    "/chains/?status=stopped",
    "/chains/{chain-draft}/",
    "/chains/{chain-draft}/add/",
    "/chains/{chain-draft}/stages/2/form/dpo/",
    "/chains/{chain-running}/",
    "/chains/{chain-stopped}/",
    "/chains/{chain-succeeded}/",
    "/sweeps/",
    "/sweeps/?status=paused",
    "/sweeps/{sweep-running}/",
    "/sweeps/{sweep-paused}/",
    "/sweeps/{sweep-succeeded}/",
    "/sweeps/{sweep-stopped}/",
    "/sweeps/new/lora/?sweep={sweep-running}",
    "/playground/",
    "/playground/?targets=model-{model},model-{model1}",
    "/playground/conversations/",
    "/playground/conversations/?search=nothing-of-that-name",
    "/playground/feedback/",
    "/playground/{talk1}/",
    "/playground/{talk2}/",
    "/playground/{talk3}/",
    "/serving/",
    "/programs/",
    "/jobs/",
    "/jobs/?search=nothing-of-that-name",
    "/jobs/?kind=token-count&status=finished&page=2",
    "/jobs/{job-running}/",
    "/jobs/{job-waiting}/",
    "/jobs/{job-failed}/",
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
    "/account/",
    "/datasets/{pairs}/",
    "/datasets/{checking}/",
    "/datasets/{unusable}/",
    "/models/",
    "/models/new/",
    "/models/new/?way=folder",
    "/models/new/?way=gguf",
    "/models/?origin=trained",
    "/models/?origin=trained&ordering=name",
    "/models/{model}/",
    "/models/{trained}/",
    "/models/{trained1}/",
    "/models/{merging}/",
    "/models/{importing}/",
    "/models/{broken}/",
    "/exports/new/{model}/",
    "/exports/{export}/",
    "/exports/{export-differs}/",
    "/exports/{export-held}/",
    "/exports/{export-making}/",
    "/exports/{export-failed}/",
    "/methods/",
    "/methods/new/",
    "/methods/grpo/edit/",
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

# Scripts that look at sizes have had their turn after a frame; what glides into place is there at
# once.
FAULTS = """async (given) => {
  await new Promise(requestAnimationFrame)
  document.body.getBoundingClientRect()
  for (const animation of document.getAnimations())
    if (animation instanceof CSSTransition) animation.finish()
  return layoutFaults(given)
}"""


# Theme, the width at which pages are loaded, and those at which they are measured. The dark theme
# changes colours and nothing else, as the last test sees to, so a few widths do; contrast is
# checked by axe.
WALKS = (("light", 1440, WIDTHS), ("dark", PHONE, (PHONE, 1024, 1440)))


@pytest.mark.long
@pytest.mark.parametrize(("theme", "first", "widths"), WALKS, ids=["light", "dark"])
def test_every_page_is_sound_at_every_width(at_home, home, theme, first, widths):
    failures: list[str] = []
    with at_home(color_scheme=theme, viewport={"width": first, "height": 900}) as context:
        context.add_init_script(SHIFTS)
        page = context.new_page()
        for template in pages():
            failures += walked(page, template.format(**home), first, widths)
    assert not failures, "\n".join(failures)


def test_the_dark_theme_changes_colours_alone():
    colours = re.compile(
        r"--[\w-]+|(background|border|outline)?-?color|background|border|fill|stroke|color-scheme"
    )
    for sheet in (
        "app.css",
        "charts.css",
        "compare.css",
        "components.css",
        "datasets.css",
        "form.css",
        "playground.css",
        "playground_answers.css",
        "programs.css",
        "serving.css",
        "tables.css",
    ):
        text = re.sub(r"/\*.*?\*/", "", (STATIC / sheet).read_text(), flags=re.DOTALL)
        for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", text):
            if 'data-bs-theme="dark"' not in selector:
                continue
            names = [
                declaration.partition(":")[0].strip()
                for declaration in body.split(";")
                if declaration.strip()
            ]
            # The shadow of what floats is a colour too.
            assert [
                name for name in names if not colours.fullmatch(name) and name != "--shadow"
            ] == [], selector


def test_the_first_column_has_its_width_before_the_second_one_has_come(at_home, home):
    """A long page is painted while it loads, and what was read there must not move."""
    first_width = "() => document.querySelector('.grid-main > :first-child').offsetWidth"
    with at_home(viewport={"width": 1440, "height": 900}) as context:
        page = context.new_page()
        for path in ("/trains/new/lora/", "/trains/{finished}/", "/models/new/"):
            page.goto(path.format(**home), wait_until="load")
            expected = {}
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                expected[width] = page.evaluate(first_width)

            page.evaluate("document.querySelector('.grid-main > :nth-child(2)').remove()")
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate(first_width) == expected[width], (path, width)


def pages() -> list[str]:
    """All of them, or those whose address holds $WALK: for work on one page."""
    return [page for page in PAGES if os.environ.get("WALK", "") in page]


def walked(page: Page, path: str, first: int, widths: tuple[int, ...]) -> list[str]:
    """Load `path` at the width `first`, walk through `widths`, and return what is wrong."""
    ours = "/admin/" not in path and "/api/" not in path
    page.set_viewport_size({"width": first, "height": 900})
    page.goto(path, wait_until="load")
    # What polls is never idle; scripts draw within a few frames.
    page.wait_for_timeout(250)

    found = [f"axe: {violation}" for violation in axe_violations(page)] if ours else []
    shift = page.evaluate("window.shifts")
    if shift > LARGEST_SHIFT:
        # A page that moves does so every time. One that was painted before the rest of its text
        # had come, on a machine that was busy, does not.
        page.reload(wait_until="load")
        page.wait_for_timeout(250)
        shift = min(shift, page.evaluate("window.shifts"))
    if shift > LARGEST_SHIFT:
        found.append(f"shifts by {shift:.2f} while it loads")

    page.evaluate(f"() => {{ window.layoutFaults = {LAYOUT} }}")
    places: dict[str, tuple[str, list[int]]] = {}
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        found_here = page.evaluate(FAULTS, {"targets": width == PHONE and "/admin/" not in path})
        for fault in found_here:
            places.setdefault(fault["key"], (fault["line"], []))[1].append(width)
        photograph(page, path, width)

    lines = [f"{path}: {line}" for line in found]
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
