"""By preference and by reward, in a real browser: DPO, a reward model, PPO with it, GRPO with
rewards tried first."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, axe_violations, overflows, until
from tests.live import Platform

pytestmark = pytest.mark.long

SEVERAL = "(canvas) => window.Chart?.getChart(canvas)?.data.datasets.length >= 3"


def pairs(count: int = 24) -> bytes:
    rows = [
        {"prompt": f"Ball {n}?", "chosen": f"It is number {n}.", "rejected": f"No idea {n}!"}
        for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sums(count: int = 24) -> bytes:
    rows = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def form(page: Page, method: str, dataset: str, **values: str) -> None:
    """The method's form, filled in."""
    page.goto(f"/trains/new/{method}/")
    page.get_by_label("Base model").select_option(label="Tiny")
    page.get_by_label("Dataset", exact=True).select_option(label=dataset)
    page.locator("#more summary").click()
    for name, value in (
        {"sample_max_tokens": "8", "sample_prompts": "2", "epochs": ""} | values
    ).items():
        page.locator(f"#id-{name}").fill(value)


def run(page: Page) -> str:
    button = page.locator("[data-run='']:visible")
    expect(button).to_be_enabled()
    button.click()
    page.wait_for_url(re.compile(r"/trains/\d+/$"))
    expect(page.locator("#train-head")).to_contain_text("Succeeded", timeout=90_000)
    return page.url.rstrip("/").split("/")[-1]


def reward_add(page: Page, function: str) -> None:
    page.locator("[data-reward-menu]").select_option(function)


def charts(page: Page, train: str, *titles: str) -> None:
    page.goto(f"/trains/{train}/evaluation/")
    for title in titles:
        expect(page.locator("#charts").get_by_text(title, exact=True).first).to_be_visible()


def test_by_preference_and_by_reward_from_form_to_comparison(open_page, platform: Platform):
    platform.upload("pairs.jsonl", pairs())
    platform.upload("sums.jsonl", sums())
    page = open_page()

    # By preference.
    form(page, "dpo", "pairs.jsonl", max_tokens="64", max_steps="3", name="by-pairs")
    dpo = run(page)
    charts(page, dpo, "Margin of the better answer", "Better answer preferred")

    # A reward model, which says on its page what it is for.
    form(page, "reward", "pairs.jsonl", max_tokens="64", max_steps="3", name="taste")
    taste = run(page)
    charts(page, taste, "Better answer scored higher", "Margin of scores")
    page.goto(f"/trains/{taste}/")
    page.get_by_role("link", name="Train with this reward").first.click()
    page.wait_for_url(re.compile(r"/trains/new/ppo/\?reward_model="))
    expect(page.locator("[data-reward-row]")).to_contain_text("Reward model")

    # PPO with it.
    page.get_by_label("Base model").select_option(label="Tiny")
    page.get_by_label("Dataset", exact=True).select_option(label="sums.jsonl")
    page.locator("#more summary").click()
    given = {
        "max_completion_tokens": "8",
        "epochs": "",
        "max_steps": "4",
        "name": "by-taste",
        "sample_max_tokens": "8",
    }
    for name, value in given.items():
        page.locator(f"#id-{name}").fill(value)
    ppo = run(page)
    charts(page, ppo, "Reward", "Value loss", "Predicted rewards", "Answer length")
    expect(page.get_by_role("heading", name="Answers it learns from")).to_be_visible()
    expect(page.locator("[data-completions] tbody tr").first).to_contain_text("+ 1?")

    # GRPO: nothing runs without a reward; batch and generations are explained; rewards can be
    # tried.
    form(page, "grpo", "sums.jsonl", max_completion_tokens="8", max_steps="3", name="by-number")
    expect(page.locator("[data-run='']:visible")).to_be_disabled()
    expect(page.locator("[data-run-note]")).to_contain_text("Choose a reward")
    reward_add(page, "numeric_answer")
    reward_add(page, "length_window")
    page.locator("#id-batch_size").fill("6")
    expect(page.locator("#messages-batch_size")).to_contain_text("6 × accumulation 1 = 6 answers")
    page.locator("#id-batch_size").fill("8")
    expect(page.locator("#messages-batch_size")).to_be_empty()
    page.locator("[data-trial-run]").click()
    expect(page.locator(".trial-table tbody tr")).to_have_count(5, timeout=90_000)
    page.locator(".trial-table textarea").first.fill("It is 1.")
    page.get_by_role("button", name="Score these answers").click()
    expect(page.locator(".trial-table tbody tr").first.locator("td.num").first).to_have_text(
        "1.00", timeout=30_000
    )
    assert axe_violations(page) == []
    grpo = run(page)
    charts(page, grpo, "Reward", "Prompts with equal rewards", "Answers cut off")

    # All on one page.
    page.goto(f"/trains/compare/?ids={dpo},{ppo},{grpo}")
    expect(page.locator("main")).to_contain_text("judged by different measures")
    shown = page.locator("[data-settings-table] tbody tr:visible")
    expect(shown.filter(has_text="Numeric answer")).to_contain_text("Reward model")
    until(page, f"() => [...document.querySelectorAll('.charts canvas')].some({SEVERAL})")

    # A copy has the rewards of its train.
    page.goto(f"/trains/new/grpo/?copy={grpo}")
    expect(page.locator("[data-reward-rows] [data-reward-row]")).to_have_count(2)
    page.locator("[data-reward-remove]").last.click()
    expect(page.locator("[data-reward-rows] [data-reward-row]")).to_have_count(1)

    phone = open_page(size=PHONE, dark=True)
    for path in (
        f"/trains/new/grpo/?copy={grpo}",
        f"/trains/{grpo}/evaluation/",
        "/methods/",
        "/trains/new/",
    ):
        phone.goto(path)
        phone.wait_for_timeout(400)
        assert axe_violations(phone) == [], path
        assert not overflows(phone), path
