"""Pages of a platform that runs. What every page looks like at every width is in test_widths.py."""

from __future__ import annotations

import pytest

from tests.e2e.test_main_job import toy_rows
from tests.live import Platform


@pytest.fixture(scope="module")
def finished(platform: Platform) -> int:
    """The id of a train that has ended well."""
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    run = platform.ended(platform.start(dataset, max_steps=12, evaluation_split=0.1))
    assert run["status"] == "finished", run
    return run["id"]


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


def test_a_chart_forgets_the_range_that_it_made_up_around_its_first_value(open_page, finished):
    """A learning rate starts at 0 with warm-up; the range drawn then must not press the rest of the
    curve flat."""
    page = open_page()
    page.goto(f"/trains/{finished}/evaluation/")
    first = page.evaluate("() => DXCharts.widen(null, 0, 0, 2)")
    later = page.evaluate("(first) => DXCharts.widen(first, 0, 2e-4, 2)", first)
    assert first["max"] == 0.5
    assert later["max"] <= 4e-4
    assert page.evaluate("(later) => DXCharts.widen(later, 0, 1e-4, 2).max", later) == later["max"]
