"""SmolLM2 in a browser over a Ray cluster: started by clicks, a node is killed under it, and the page says
so and goes on."""

import re

import pytest
from playwright.sync_api import expect

from models_app.management.commands.smollm2_install import SLUG
from tests.browser.conftest import axe_violations, browser, open_page  # noqa: F401 - fixtures
from tests.cluster.clients import LONG
from tests.cluster.test_platform import SECONDS, house, log_of  # noqa: F401 - a fixture
from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

STEPS = 14
SAVE_EVERY = 4
VALUES = {
    "max_tokens": "64",
    "epochs": "",
    "max_steps": str(STEPS),
    "batch_size": "1",
    "gradient_accumulation_steps": "2",
    "save_every": str(SAVE_EVERY),
    "sample_prompts": "0",
    "devices": "2",
}


@pytest.fixture(scope="module")
def platform(house) -> Platform:  # noqa: F811
    """The pages are those of the one with the cluster."""
    return house


@LONG
def test_a_killed_node_costs_at_most_one_checkpoint(house, cluster, open_page):  # noqa: F811
    house.manage("smollm2_install")
    house.kept("toys-80.jsonl", toy_rows(80))

    page = open_page()
    page.goto("/trains/new/lora/")
    (model,) = (row for row in house.get("models/")["results"] if row["slug"] == SLUG)
    page.get_by_label("Base model", exact=True).select_option(label=model["name"])
    page.get_by_label("Dataset", exact=True).select_option(label="toys-80.jsonl")
    page.get_by_label("Save checkpoints", exact=True).select_option("steps")
    page.get_by_label("Run on", exact=True).select_option("ray")
    page.locator("#more summary").click()
    for name, value in VALUES.items():
        page.locator(f"#id-{name}").fill(value)

    run_button = page.locator("[data-run='']:visible")
    expect(run_button).to_be_enabled()
    assert axe_violations(page) == []
    run_button.click()
    page.wait_for_url(re.compile(r"/trains/\d+/$"))
    run = {"id": int(page.url.rstrip("/").rpartition("/")[2])}
    address = f"trains/{run['id']}/"

    row = house.poll(address, lambda row: row["step"] > SAVE_EVERY or row["finished_at"], SECONDS)
    assert row["status"] == "running", log_of(house, run)
    assert len(row["facts"]["device"]["nodes"]) == 2
    cluster.node_kill(-1)

    warnings = page.locator("#train-warnings")
    expect(warnings).to_contain_text(
        re.compile(r"Node \S+ of the Ray cluster was lost"), timeout=SECONDS * 1000
    )
    expect(page.locator(".title-row")).to_contain_text("Succeeded", timeout=SECONDS * 1000)
    assert axe_violations(page) == []

    row = house.get(address)
    assert (row["status"], row["step"], row["attempt"]) == ("finished", STEPS, 1)
    # Rows that a later start repeated are those of the later one.
    rows = house.get(f"{address}metrics/", after=0)["rows"]
    steps = [row["step"] for row in rows if row["split"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    resumed = row["facts"]["resumed_from"]
    assert resumed >= SAVE_EVERY
    assert f"resumes from step {resumed}" in warnings.inner_text()
