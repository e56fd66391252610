"""Lists in a real browser: sort, label, choose columns, delete several, search everything, and the
queue's page."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import DESKTOP, PHONE, axe_violations, overflows
from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

pytestmark = pytest.mark.long

SHORT = {"max_steps": 1, "sample_prompts": 0, "evaluation_split": 0}


@pytest.fixture
def prefix(platform: Platform) -> Iterator[str]:
    """What the names of three trains of Alice's begin with: two have ended, and one waits in a
    queue that an operator has paused."""
    prefix = f"lists-{uuid.uuid4().hex[:6]}"
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    for name in ("one", "two"):
        platform.ended(platform.start(dataset, name=f"{prefix}-{name}", **SHORT))
    platform.api("POST", "queue/pause/", by="olga", json={"reason": "A test."})
    waiting = platform.start(dataset, name=f"{prefix}-waits", **SHORT)
    yield prefix
    platform.api("POST", f"trains/{waiting['id']}/stop/", json={})
    platform.api("POST", "queue/resume/", by="olga")


def names(page: Page) -> list[str]:
    return page.locator("#trains .row-link").all_inner_texts()


def pick_all(page: Page, action: str) -> None:
    """Tick every train of the page and choose an action for them."""
    for pick in page.locator("[data-pick]").all():
        pick.check()
    page.locator(".bulk-menu summary").click()
    page.locator(f"[data-bulk={action}]").click()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["wide", "phone"])
def test_trains_are_sorted_labelled_found_and_deleted_together(open_page, prefix, size):
    page = open_page(size=size, dark=size is PHONE)
    dialog = page.locator("#bulk-dialog")
    page.goto(f"/trains/?search={prefix}")

    # A head sorts, and says so; what has no duration stays at the end.
    if size is DESKTOP:
        for state in ("ascending", "descending"):
            page.get_by_role("link", name="Duration", exact=True).click()
            expect(page.locator(".head-duration")).to_have_attribute("aria-sort", state)
            assert names(page)[-1] == f"{prefix}-waits"

    # A label on all of them; each says what it gets before anything is done.
    pick_all(page, "label")
    dialog.get_by_label("Label", exact=True).fill(f"label {prefix}")
    expect(dialog.locator("li")).to_have_count(3)
    expect(dialog.locator("li").first).to_contain_text(f"Gets label {prefix}.")
    assert axe_violations(page) == []
    dialog.get_by_role("button", name="Add the label to 3 trains").click()
    expect(page.locator("#toasts")).to_contain_text("3 trains labelled.")
    page.locator("#trains .label").first.click()
    page.wait_for_url(f"**/trains/?label=label%20{prefix}")
    assert sorted(names(page)) == [f"{prefix}-{name}" for name in ("one", "two", "waits")]
    assert not overflows(page)
    assert axe_violations(page) == []

    # Those that can be deleted are, and the other one says why it was not.
    pick_all(page, "delete")
    expect(dialog.locator(".will-not")).to_contain_text(f"{prefix}-waits")
    expect(dialog.locator(".will-not")).to_contain_text("It is waiting. Stop it first.")
    dialog.get_by_role("button", name="Delete 2 trains").click()
    expect(dialog.locator("h2")).to_have_text("2 trains deleted, 1 not")
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("#trains .row-link")).to_have_text([f"{prefix}-waits"])


def test_columns_search_and_queue_by_keyboard(open_page, prefix):
    page = open_page()
    page.goto("/trains/")
    column = page.locator(".head-best")
    expect(column).to_be_hidden()
    page.get_by_label("Choose columns").click()
    with page.expect_response(re.compile("/api/v1/trains/columns/")):
        page.get_by_label("Best eval").check()
    expect(column).to_be_visible()
    page.reload()
    expect(page.locator(".head-best")).to_be_visible()

    # Search everything: a key opens it, arrows choose, Enter goes there, Escape leaves.
    page.keyboard.press("Control+k")
    box = page.locator("#search-input")
    box.fill(prefix)
    options = page.locator("#search-hits [role=option]")
    expect(options.first).to_have_attribute("aria-selected", "true")
    assert axe_violations(page) == []
    page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    chosen = options.nth(1).get_attribute("href")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{chosen}")
    page.keyboard.press("/")
    expect(box).to_be_focused()
    box.fill("no such thing anywhere")
    expect(page.locator("#search-note")).to_contain_text("Nothing is called")
    page.keyboard.press("Escape")
    expect(page.locator("#search-dialog")).to_be_hidden()

    # The queue: the waiting train says when it starts, and is stopped after a question.
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Queue").click()
    row = page.locator(".queue-table tbody tr", has_text=f"{prefix}-waits")
    expect(row).to_contain_text("when the queue is resumed")
    assert axe_violations(page) == []
    # Somebody who thinks again can still stop it later.
    row.get_by_role("button", name=f"Stop {prefix}-waits").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep waiting").click()
    row.get_by_role("button", name=f"Stop {prefix}-waits").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#toasts")).to_contain_text(f"{prefix}-waits is stopped.")
    expect(page.locator(".queue-table tbody tr", has_text=f"{prefix}-waits")).to_have_count(0)
