"""A sweep in a real browser: several values in the form, trains that are pruned, the best copied."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, axe_violations, overflows
from tests.e2e.test_main_job import toy_rows
from tests.live import ROOT

pytestmark = pytest.mark.long

# The last two learn nothing, so that they are behind at every step.
RATES = ("2e-2", "1e-2", "5e-3", "4e-3", "1e-8", "1e-9")
SHORT = {"max_tokens": "64", "epochs": "", "max_steps": "80", "evaluation_split": "10"}
QUICK = {"sample_prompts": "0", "gradient_accumulation_steps": "2"}


@pytest.fixture
def quick_watch(platform) -> Iterator[None]:
    """Housekeeping beside the platform's own, which comes by every five seconds: a tiny train may
    have ended by then."""
    with subprocess.Popen(
        [sys.executable, "manage.py", "watch", "--every", "0.5"], cwd=ROOT, env=platform.env
    ) as process:
        yield
        process.terminate()


def filled(page: Page) -> None:
    page.goto("/trains/new/lora/")
    page.get_by_label("Base model").select_option(label="Tiny")
    page.get_by_label("Dataset", exact=True).select_option(label="toys-80.jsonl")
    page.locator("#id-name").fill("rates")
    page.locator("#more summary").click()
    for name, value in (SHORT | QUICK).items():
        page.locator(f"#id-{name}").fill(value)


@pytest.mark.usefixtures("quick_watch")
def test_six_trains_two_pruned_and_the_best_copied(open_page, platform):
    platform.kept("toys-80.jsonl", toy_rows(80))
    page = open_page()
    filled(page)
    run = page.locator("[data-run='']:visible")
    expect(run).to_contain_text("Run the Train")

    rate = page.locator("#field-learning_rate")
    rate.locator("#id-learning_rate").fill(RATES[0])
    for value in RATES[1:]:
        rate.get_by_role("button", name="Add a value of Learning rate").click()
        rate.get_by_label("Learning rate: another value").last.fill(value)
    expect(run).to_contain_text("Run 6 trains")
    expect(page.locator("#summary")).to_contain_text("6 combinations, one train each")

    # What is wrong stands beside its control at once.
    page.get_by_label("Pruner").select_option("median")
    page.locator("#id-evaluation_every").fill("50")
    expect(page.locator('[data-messages="pruner"]')).to_contain_text("at least 4 evaluations")
    expect(run).to_be_disabled()
    page.locator("#id-evaluation_every").fill("10")
    expect(run).to_be_enabled()
    assert axe_violations(page) == []
    run.click()
    page.wait_for_url(re.compile(r"/sweeps/\d+/$"))

    head = page.locator("#sweep .title-row")
    expect(head).to_contain_text("Succeeded", timeout=400_000)
    expect(page.locator("table.trials tbody tr")).to_have_count(6)
    pruned = page.locator(".trial-state", has_text="Pruned: at step")
    assert pruned.count() >= 2
    expect(pruned.last).to_contain_text("above the median")
    assert axe_violations(page) == []

    # By keyboard: a line says what it is, and leads to its train.
    line = page.locator(".trial-line.line-best")
    line.focus()
    expect(page.locator("[data-lit]")).to_contain_text("learning rate")
    expect(page.locator("tr.is-best")).to_have_class(re.compile("is-lit"))
    page.keyboard.press("Enter")
    expect(page.locator("tr.is-best a")).to_be_focused()
    best = page.locator("tr.is-best td[data-label='Learning rate']").inner_text()

    page.get_by_role("link", name="Copy the best").click()
    page.wait_for_url(re.compile(r"/trains/new/lora/\?copy="))
    assert float(page.locator("#id-learning_rate").input_value()) == float(best)

    phone = open_page(size=PHONE, dark=True)
    phone.goto("/sweeps/")
    phone.get_by_role("link", name="rates").click()
    expect(phone.locator("table.trials tbody tr")).to_have_count(6)
    assert not overflows(phone)
    assert axe_violations(phone) == []


def test_a_setting_stays_while_one_of_the_values_needs_it(open_page):
    """The rank of adapters, where all weights are trained first and an adapter besides."""
    page = open_page()
    page.goto("/trains/new/dpo/")
    rank = page.locator("#field-lora_rank")
    page.locator("#id-adapter").select_option("none")
    expect(rank).to_be_hidden()

    buttons = page.locator("#field-adapter [data-sweep-do]")
    buttons.filter(has_text="Add a value").click()
    page.locator('select[name="sweep-adapter"]').first.select_option("lora")
    expect(rank).to_be_visible()
    page.locator("#id-lora_rank").fill("64")
    expect(page.locator("#id-lora_rank")).to_have_value("64")
    buttons.filter(has_text="One value").click()
    expect(rank).to_be_hidden()
