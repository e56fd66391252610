"""A log that is too long to be shown whole: found by a search of all of it, opened there, and back
to the end."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import until
from tests.e2e.test_main_job import toy_rows

pytestmark = pytest.mark.long

LINE = "[00:01] step {}/400000  epoch 0.05  loss 5.7399  learning rate 1.00e-04\n"

# The line that was found is within the box, with lines above it.
IN_VIEW = """() => {
  const box = document.getElementById("log"), frame = box.getBoundingClientRect();
  for (const piece of box.querySelectorAll("pre")) {
    const at = piece.textContent.indexOf("a <needle> here");
    if (at < 0) continue;
    const range = new Range();
    range.setStart(piece.firstChild, at);
    range.setEnd(piece.firstChild, at + 5);
    const place = range.getBoundingClientRect();
    return place.top > frame.top + 40 && place.bottom < frame.bottom;
  }
  return false;
}"""


# Asked in the page: its text is 16 MB, too much to be handed over again and again.
HOLDS = "() => document.getElementById('log').textContent.includes({})"


def test_all_of_a_long_log_is_searched_and_any_place_of_it_opened(open_page, platform):
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    run = platform.ended(platform.start(dataset, max_steps=1, sample_prompts=0, evaluation_split=0))
    with (platform.home / "runs" / str(run["id"]) / "train.log").open("a") as stream:
        for number in range(400_000):
            stream.write(LINE.format(number) + ("a <needle> here\n" if number == 1234 else ""))
    page = open_page()
    page.goto(f"/trains/{run['id']}/log/")
    expect(page.locator("#log-state")).to_contain_text("complete", timeout=120_000)
    assert not page.evaluate(HOLDS.format("'needle'"))

    page.get_by_label("Find in log").fill("NEEDLE")
    expect(page.locator("[data-search-status]")).to_have_text(
        "1 line in the whole log", timeout=60_000
    )
    page.get_by_role("button", name=re.compile("a <needle> here")).click()
    until(page, HOLDS.format("'a <needle> here'"))
    assert page.evaluate(HOLDS.format("'step 1234/'"))
    expect(page.locator("#log-state")).to_contain_text("Around")
    assert page.evaluate(IN_VIEW)

    page.locator("[data-place]").fill("500")
    until(page, HOLDS.format("'step 202000/'"))
    assert not page.evaluate(HOLDS.format("'needle'"))
    page.get_by_role("button", name="To the end").click()
    until(page, HOLDS.format("'step 399999/'"))
