"""From a finished train to the next one: chat with base and tuned side by side, stop, vote, make a
dataset of it, train on that. A real platform with its gateway and model servers."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, overflows
from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

pytestmark = pytest.mark.long

# The first answer waits until the model is prepared, and held against what the train answered.
SECONDS = 240


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Control+Enter")


def answered(page: Page, prompt: int, count: int = 2) -> None:
    """Wait until each model has answered a prompt, with its figures."""
    cells = page.get_by_label(f"Prompt {prompt}").locator(".answer-cell")
    expect(cells).to_have_count(count)
    for number in range(count):
        status = cells.nth(number).locator(".answer-status")
        expect(status).to_contain_text(re.compile(r"\d token"), timeout=SECONDS * 1000)


def test_chat_vote_make_a_dataset_and_train_on_it(open_page, platform: Platform):
    rows = platform.kept("toys-to-talk-about.jsonl", toy_rows(40))
    run = platform.start(rows, name="chatty", max_steps=4, evaluation_split=0.2)
    assert platform.ended(run)["status"] == "finished"

    # From the train's page: base and tuned, side by side.
    page = open_page()
    page.goto(f"/trains/{run['id']}/")
    page.get_by_role("link", name="Chat", exact=True).click()
    page.wait_for_url(f"**/playground/?target=train-{run['id']}")
    heads = page.locator(".pane-model")
    expect(heads).to_have_count(2)
    expect(heads.nth(1)).to_contain_text("chatty")
    page.get_by_label("Max tokens").fill("24")
    page.get_by_label("Max tokens").blur()

    # A held-out prompt of the train, stopped before its model is there; then asked again.
    page.get_by_role("button", name="Held-out prompts").click()
    page.locator(".play-prompt").first.click()
    expect(page.get_by_label("Message", exact=True)).to_have_value(re.compile(r"Question \d+\?"))
    page.get_by_label("Message", exact=True).press("Control+Enter")
    expect(page.get_by_role("button", name="Stop").first).to_be_visible()
    page.keyboard.press("Escape")
    again = page.get_by_role("button", name="Try again")
    expect(again).to_have_count(2)
    page.wait_for_url(re.compile(r"/playground/\d+/$"))
    for _ in range(2):
        again.first.click()
    answered(page, 1)

    # What was there is there after a reload, and the tokens are those of the template.
    page.reload()
    answered(page, 1)
    page.get_by_role("button", name="Show tokens").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".piece-special").first).to_be_visible(timeout=60_000)
    dialog.get_by_role("button", name="Close").click()

    # A blind vote: no name before it, both after it.
    page.get_by_role("link", name="New", exact=True).click()
    page.get_by_text("Blind vote: hide model names").click()
    ask(page, "What is the answer to question 3?")
    turn = page.get_by_label("Prompt 1")
    titles = turn.locator(".answer-title")
    expect(titles).to_have_text(["Answer A", "Answer B"])
    better = turn.get_by_role("button", name="A is better")
    expect(better).to_be_enabled(timeout=SECONDS * 1000)
    expect(titles).to_have_text(["Answer A", "Answer B"])
    better.click()
    expect(titles).to_have_text([re.compile("^A: "), re.compile("^B: ")])
    expect(turn.locator(".answer-status").first).to_contain_text("Voted better")
    names = {text.partition(": ")[2].partition(" #")[0] for text in titles.all_inner_texts()}
    assert names == {"Tiny", "chatty"}

    # A dataset of it, and the form of the next train.
    page.get_by_role("link", name="Feedback", exact=True).click()
    expect(page.get_by_text("With fewer than 20 votes, chance decides")).to_be_visible()
    pairs = page.locator("li", has_text="Preference pairs")
    pairs.get_by_role("button", name="Make a dataset").click()
    page.wait_for_url(re.compile(r"/datasets/\d+/$"))
    page.get_by_role("link", name="Train with DPO").click(timeout=60_000)
    page.wait_for_url(re.compile(r"/trains/new/dpo/\?dataset=\d+&base_model=\d+"))
    expect(page.get_by_label("Base model").locator("option:checked")).to_have_text(
        re.compile("Tiny")
    )
    expect(page.get_by_label("Dataset", exact=True).locator("option:checked")).to_contain_text(
        "Preference pairs"
    )

    # On a phone one model at a time.
    phone = open_page(size=PHONE)
    phone.goto("/playground/conversations/")
    phone.get_by_role("link", name=re.compile("^Question")).first.click()
    cells = phone.locator(".answer-cell")
    expect(cells.nth(0)).to_be_visible()
    expect(cells.nth(1)).to_be_hidden()
    phone.get_by_role("button", name="Show the answers of model 2").click()
    expect(cells.nth(1)).to_be_visible()
    expect(cells.nth(0)).to_be_hidden()
    assert not overflows(phone)
