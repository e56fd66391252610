"""Every page, light and dark, wide and phone: no console error, nothing to scroll sideways, nothing serious for axe."""

from __future__ import annotations

import pytest

from tests.browser.conftest import DESKTOP, PHONE, axe_violations, overflows
from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

PAGES = (
    "/trains/",
    "/trains/?search=nothing-of-that-name",
    "/trains/new/",
    "/trains/new/lora/?dataset={dataset}",
    "/trains/{run}/",
    "/trains/{run}/evaluation/",
    "/trains/{run}/log/",
    "/trains/{failed}/",
    "/trains/compare/?ids={run},{failed}",
    "/trains/compare/",
    "/trains/queue/",
    "/datasets/",
    "/datasets/new/",
    "/datasets/{dataset}/",
    "/datasets/{bad}/",
    "/models/",
    "/models/add/",
    "/models/{model}/",
    "/methods/",
    "/account/",
    "/no-such-page/",
)
STAFF_PAGES = (
    "/methods/new/",
    "/methods/grpo/edit/",
    "/trains/queue/",
    "/admin/",
    "/admin/training/trainrun/",
    "/admin/training/trainrun/{run}/change/",
    "/admin/accounts/token/",
    "/admin/accounts/signincounter/",
    "/admin/queue/",
    "/api/v1/docs/",
)


@pytest.fixture(scope="module")
def things(platform: Platform) -> dict[str, int]:
    """Ids of what the pages show: a finished train, a failed one, datasets good and bad, a model."""
    good = platform.upload("pages.jsonl", toy_rows())
    bad = platform.upload("bad.jsonl", b'{"prompt": "a", "completion": null}\nnot json\n' + toy_rows(5))
    run = platform.ended(platform.start(good, max_steps=12, evaluation_split=0.1))
    assert run["status"] == "finished", run
    changed = platform.upload("gone.jsonl", toy_rows(20))
    (platform.home / "datasets" / str(changed["id"]) / "data.jsonl").write_bytes(toy_rows(19))
    failed = platform.ended(platform.start(changed, max_steps=1))
    assert failed["status"] == "failed", failed
    model = platform.get("models/tiny/")
    return {"dataset": good["id"], "bad": bad["id"], "run": run["id"], "failed": failed["id"], "model": model["id"]}


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_sound(open_page, things, screenshots, size, dark):
    page = open_page(size=size, dark=dark)
    found: list[str] = []
    for number, template in enumerate(PAGES):
        path = template.format(**things)
        # What polls is never idle, so wait for what a reader waits for: the page and its scripts.
        page.goto(path, wait_until="load")
        page.wait_for_timeout(400)
        mode = f"{'dark' if dark else 'light'}-{'phone' if size is PHONE else 'wide'}"
        page.screenshot(
            path=screenshots / f"{number:02}-{template.strip('/').split('?')[0].replace('/', '_')}-{mode}.png",
            full_page=True,
        )
        found += [f"{path}: {violation}" for violation in axe_violations(page)]
        if overflows(page):
            found.append(f"{path}: scrolls sideways")
    assert found == []


def test_pages_for_operators_are_sound(open_page, things, screenshots):
    page = open_page(by="olga")
    for number, template in enumerate(STAFF_PAGES):
        page.goto(template.format(**things), wait_until="load")
        page.wait_for_timeout(400)
        assert "Server Error" not in page.content()
        page.screenshot(path=screenshots / f"staff-{number:02}.png", full_page=True)


def test_the_menu_and_the_form_work_from_the_keyboard(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").strip().lower().startswith("skip")
    page.goto("/trains/new/")
    page.locator("input[name=method]").first.focus()
    page.keyboard.press("ArrowDown")
    page.locator("[data-continue]").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/trains/new/sft/**")


def test_a_chart_forgets_the_range_that_it_made_up_around_its_first_value(open_page, things):
    """A learning rate starts at 0 with warm-up; the range drawn then must not press the rest of the curve flat."""
    page = open_page()
    page.goto(f"/trains/{things['run']}/evaluation/")
    first = page.evaluate("() => DXCharts.widen(null, 0, 0, 2)")
    later = page.evaluate("(first) => DXCharts.widen(first, 0, 2e-4, 2)", first)
    assert first["max"] == 0.5
    assert later["max"] <= 4e-4
    assert page.evaluate("(later) => DXCharts.widen(later, 0, 1e-4, 2).max", later) == later["max"]
