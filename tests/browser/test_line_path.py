"""The line in a real browser: an operator pauses, moves and opens it; whoever waits sees why."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, axe_violations, overflows
from tests.e2e.test_main_job import toy_rows

pytestmark = pytest.mark.long


def test_an_operator_pauses_moves_and_opens_the_line(open_page, platform):
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    short = {"max_steps": 1, "sample_prompts": 0, "evaluation_split": 0}
    platform.ended(platform.start(dataset, **short))
    operator = open_page(by="olga")
    operator.goto("/trains/")
    operator.get_by_role("link", name="See the queue").click()
    operator.get_by_label("Reason, shown to everybody who waits").fill("New disks until noon.")
    operator.get_by_role("button", name="Pause the queue").click()
    expect(operator.locator("#queue")).to_contain_text("The queue is paused")

    first, second = (
        platform.start(dataset, name=f"line-{place}", **short) for place in ("first", "second")
    )
    owner = open_page(size=PHONE, dark=True)
    owner.goto(f"/trains/{second['id']}/")
    expect(owner.locator(".queue-notice")).to_contain_text("New disks until noon.")
    expect(owner.locator("#train-progress")).to_contain_text("2nd in line")
    expect(owner.get_by_role("button", name="Resume the queue")).to_have_count(0)
    assert axe_violations(owner) == []
    assert not overflows(owner)

    operator.goto("/trains/queue/")
    operator.get_by_role("button", name="Move to the front: line-second").click()
    expect(operator.locator(".queue-table tbody tr").first).to_contain_text("line-second")
    expect(owner.locator("#train-progress")).to_contain_text("1st in line")
    assert axe_violations(operator) == []

    # A third waits for the first, as its form says.
    owner.goto("/trains/new/lora/")
    owner.get_by_label("Base model").select_option(label="Tiny")
    owner.get_by_label("Dataset", exact=True).select_option(label="toys-20.jsonl")
    owner.locator(".when summary").click()
    owner.get_by_label("Starts", exact=True).select_option(
        label=f"after line-first #{first['id']} has succeeded"
    )
    owner.locator("#more summary").click()
    for name, value in (
        ("max_tokens", "64"),
        ("epochs", ""),
        ("max_steps", "1"),
        ("sample_prompts", "0"),
    ):
        owner.locator(f"#id-{name}").fill(value)
    run = owner.locator("[data-run='']:visible")
    expect(run).to_be_enabled()
    run.click()
    owner.wait_for_url(re.compile(r"/trains/\d+/$"))
    expect(owner.locator("#train-progress")).to_contain_text("starts after line-first")

    operator.get_by_role("button", name="Resume the queue").click()
    expect(operator.locator("#queue")).not_to_contain_text("The queue is paused")
    expect(owner.locator("#train-head")).to_contain_text("Succeeded", timeout=90_000)
    ended = [platform.ended(run)["started_at"] for run in (second, first)]
    assert ended == sorted(ended)
