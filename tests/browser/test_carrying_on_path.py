"""The choice under the base model: a new adapter, or the one that the model was made with."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, axe_violations, overflows
from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

pytestmark = pytest.mark.long


def test_an_adapter_is_carried_on_by_clicks(open_page, platform: Platform) -> None:
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    first = platform.ended(platform.start(dataset, name="first", max_steps=2, lora_rank=4))
    answer = platform.api("POST", f"trains/{first['id']}/merge/", json={"name": "Carried"})
    model = platform.poll(
        f"models/{answer.json()['model']['id']}/", lambda row: row["status"] != "importing"
    )
    assert model["status"] == "ready", model["error"]

    page = open_page()
    page.goto("/trains/new/lora/")
    base = page.get_by_label("Base model")
    choice = page.locator("#field-continue_adapter")
    rank = page.locator("#field-lora_rank")

    # Offered where there is an adapter, and nothing is asked for that it gives.
    base.select_option(label="Tiny")
    expect(choice).to_be_hidden()
    base.select_option(value=str(model["id"]))
    expect(choice).to_contain_text("Rank 4, Alpha 8")
    expect(rank).to_be_visible()
    page.get_by_label("Continue its adapter").check()
    expect(rank).to_be_hidden()
    assert axe_violations(page) == []

    # Another model brings another choice.
    base.select_option(label="Tiny")
    expect(choice).to_be_hidden()
    expect(rank).to_be_visible()
    base.select_option(value=str(model["id"]))
    expect(page.get_by_label("New adapter on the merged weights")).to_be_checked()

    page.get_by_label("Continue its adapter").check()
    page.get_by_label("Dataset", exact=True).select_option(label="toys-20.jsonl")
    page.locator("#id-name").fill("second")
    page.locator("#id-max_tokens").fill("64")
    page.locator("#id-epochs").fill("")
    page.locator("#more summary").click()
    page.locator("#id-max_steps").fill("2")
    button = page.locator("[data-run='']:visible")
    expect(button).to_be_enabled()
    button.click()
    page.wait_for_url(re.compile(r"/trains/\d+/$"))
    expect(page.locator("#train-head")).to_contain_text("Succeeded", timeout=90_000)
    expect(page.locator(".lineage")).to_contain_text("its adapter is continued")
    train = page.url.rstrip("/").split("/")[-1]
    assert platform.get(f"trains/{train}/")["parameters"]["lora_rank"] == 4

    phone = open_page(size=PHONE, dark=True)
    phone.goto(f"/trains/new/lora/?copy={train}")
    expect(phone.get_by_label("Continue its adapter")).to_be_checked()
    assert not overflows(phone)
    assert axe_violations(phone) == []
