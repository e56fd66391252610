"""Pages of a platform that runs. What every page looks like at every width is in test_widths.py."""

from __future__ import annotations

import pytest

from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

pytestmark = pytest.mark.long


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
    highest = page.evaluate(
        """([...most]) => {
          const spec = { name: "one", title: "One", kind: "rate", axis: "rate" };
          const panel = new DXCharts.Panel(spec, { small: true });
          document.getElementById("main").append(panel.element);
          return most.map((value) => {
            const points = [[1, 0, 0, 0], [2, 0, 0, value]];
            const view = { axis: "step", smoothing: 0, log: false, end: 10 };
            panel.set([{ label: "Train", colour: 1, points }], view);
            return panel.chart.scales.y.max;
          });
        }""",
        [0, 2e-4, 1e-4],
    )
    assert highest[0] > 0.4
    assert 2e-4 <= highest[1] <= 4e-4
    # What was seen once stays in sight: a live chart does not jump.
    assert highest[2] == highest[1]
