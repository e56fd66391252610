"""The whole path of a person who writes no code, in a real browser: upload, start, watch, stop,
copy, compare."""

from __future__ import annotations

import json
import random
import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import DESKTOP, PHONE, until
from tests.e2e.test_main_job import toy_rows
from tests.marks import others_long

POINTS = (
    "() => window.Chart?.getChart(document.querySelector('#charts "
    "canvas'))?.data.datasets[0]?.data.length ?? 0"
)
STEP = """() => {
  const found = /step ([\\d,]+)\\s+of/i.exec(document.querySelector("#train-progress").textContent);
  return Number((found ?? [0, "0"])[1].replaceAll(",", ""));
}"""
LINES = (
    "() => window.Chart?.getChart(document.querySelector('.charts "
    "canvas'))?.data.datasets.length ?? 0"
)


def upload(page: Page, name: str, rows: int = 40) -> None:
    page.goto("/datasets/")
    page.get_by_role("link", name=re.compile("Upload")).first.click()
    page.locator("#id_file").set_input_files(
        {"name": f"{name}.jsonl", "mimeType": "text/plain", "buffer": toy_rows(rows)}
    )
    expect(page.get_by_label("Name", exact=True)).to_have_value(name)
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url(re.compile(r"/datasets/\d+/"))
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    expect(page.get_by_text("Question 0?").first).to_be_visible(timeout=60_000)


def set_field(page: Page, name: str, value: str) -> None:
    page.locator(f"#id-{name}").fill(value)


def start(page: Page, dataset: str, **values: str) -> str:
    """Through the method's card and the form to the train's page; returns its address."""
    page.goto("/trains/")
    page.get_by_role("link", name="Start a New Train").first.click()
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url("**/trains/new/lora/**")
    page.get_by_label("Base model").select_option(label="Tiny")
    page.get_by_label("Dataset", exact=True).select_option(label=dataset)
    page.locator("#more summary").click()
    for name, value in (
        {"max_tokens": "64", "sample_max_tokens": "8", "sample_prompts": "2"} | values
    ).items():
        set_field(page, name, value)
    run = page.locator("[data-run='']:visible")
    expect(run).to_be_enabled()
    run.click()
    page.wait_for_url(re.compile(r"/trains/\d+/$"))
    return page.url


@pytest.mark.parametrize("size", others_long([DESKTOP, PHONE]), ids=["desktop", "phone"])
def test_a_person_trains_watches_stops_copies_and_compares(open_page, size):
    page = open_page(size=size)
    name = f"toys-{'phone' if size is PHONE else 'desktop'}"
    upload(page, name)
    address = start(page, name, max_steps="4000", epochs="", batch_size="2", name=f"{name}-first")

    # Watch: the chart gains points without a reload, and nothing about the page is loaded anew.
    page.get_by_role("link", name="Evaluation Data").click()
    page.wait_for_url("**/evaluation/")
    page.evaluate("window.sameDocument = true")
    until(page, f"() => ({POINTS})() >= 3", seconds=90)
    before = page.evaluate(POINTS)
    until(page, f"() => ({POINTS})() > {before}")
    assert page.evaluate("window.sameDocument") is True

    # Log: lines arrive, and a word is found.
    page.get_by_role("link", name="Train Log").click()
    log = page.locator("#log")
    expect(log).to_contain_text(re.compile(r"step", re.IGNORECASE))
    page.get_by_label("Find in log").fill("loss")
    expect(page.locator("#log-matches")).to_contain_text(re.compile(r"of|match"))

    # Stop asks first, then saves.
    page.get_by_role("button", name="Stop", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("saves a checkpoint")
    dialog.get_by_role("button", name="Save and stop").click()
    expect(page.locator("#train-head")).to_contain_text("Stopped", timeout=60_000)
    expect(page.get_by_role("link", name="Download", exact=True)).to_be_visible()

    # Resume: the same train continues after its checkpoint.
    reached = page.evaluate(STEP)
    page.get_by_role("button", name=re.compile("Resume from step")).click()
    expect(page.locator("#train-head")).to_contain_text("Running", timeout=60_000)
    until(page, f"() => ({STEP})() > {reached}", seconds=60)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Save and stop").click()
    expect(page.locator("#train-head")).to_contain_text("Stopped", timeout=60_000)

    # Copy: the same values; what is changed is marked, and lineage is kept.
    page.goto(address)
    page.get_by_role("link", name="Copy the Train").last.click()
    page.wait_for_url("**/trains/new/lora/?copy=*")
    expect(page.locator("#id-max_steps")).to_have_value("4000")
    expect(page.locator("#id-batch_size")).to_have_value("2")
    set_field(page, "learning_rate", "1e-2")
    expect(page.locator("#field-learning_rate [data-was]")).to_contain_text("2e-4")
    set_field(page, "max_steps", "5")
    set_field(page, "name", f"{name}-second")
    page.locator("[data-run='']:visible").click()
    page.wait_for_url(re.compile(r"/trains/\d+/$"))
    assert page.url != address
    expect(page.locator("main")).to_contain_text(f"{name}-first")
    expect(page.locator("#train-head")).to_contain_text("Succeeded", timeout=90_000)

    # Compare the two: only what differs, and one column for each.
    page.goto(f"/trains/?search={name}")
    for pick in page.locator("[data-pick]").all():
        pick.check()
    page.get_by_role("link", name="Compare 2 trains").click()
    page.wait_for_url("**/trains/compare/?ids=*")
    shown = page.locator("[data-settings-table] tbody tr:visible th")
    expect(shown.filter(has_text="Learning rate")).to_be_visible()
    expect(shown.filter(has_text="Max steps")).to_be_visible()
    expect(shown.filter(has_text="Dropout")).to_have_count(0)
    until(page, f"() => ({LINES})() >= 2")


@pytest.mark.long
def test_a_double_click_on_run_starts_one_train(open_page):
    page = open_page()
    upload(page, "toys-double")
    page.goto("/trains/new/lora/")
    page.get_by_label("Base model").select_option(label="Tiny")
    page.get_by_label("Dataset", exact=True).select_option(label="toys-double")
    page.locator("#more summary").click()
    for name, value in {
        "max_tokens": "64",
        "epochs": "",
        "max_steps": "1",
        "name": "double",
    }.items():
        set_field(page, name, value)
    run = page.locator("[data-run='']:visible")
    expect(run).to_be_enabled()
    run.dblclick()
    page.wait_for_url(re.compile(r"/trains/\d+/$"))
    page.goto("/trains/?search=double")
    expect(page.locator("#trains tbody tr")).to_have_count(1)


SHOWN = """() => {
  const { min, max } = Chart.getChart(document.querySelector("#charts canvas")).scales.x;
  return [min, max];
}"""


@pytest.mark.long
def test_a_closer_look_at_a_curve_shows_its_steps_and_a_link_shows_the_same(open_page, platform):
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    run = platform.ended(platform.start(dataset, max_steps=60, sample_prompts=0))
    page = open_page()
    page.goto(f"/trains/{run['id']}/evaluation/")
    until(page, f"() => ({POINTS})() >= 60")
    assert page.evaluate(SHOWN) == [0, 60]

    box = page.locator(".charts-main .chart-plot").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + box["width"] / 8, middle[1], steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile(r"from=\d+&to=\d+"))
    # The chart shows the range at once, and its rows as soon as they are there: from step to step.
    until(page, f"() => ({SHOWN})()[1] < 50 && ({SHOWN})().every(Number.isInteger)")
    begin, end = page.evaluate(SHOWN)
    assert 20 < begin < end
    assert page.evaluate(POINTS) == end - begin + 1
    assert f"from={begin}&to={end}" in page.url

    page.reload()
    until(page, f"() => ({POINTS})() === {end - begin + 1}")
    assert page.evaluate(SHOWN) == [begin, end]
    page.locator(".charts-main .chart-plot").focus()
    page.keyboard.press("+")
    until(page, f"() => ({SHOWN})()[0] > {begin}")
    page.get_by_role("button", name="Whole train").click()
    until(page, f"() => ({POINTS})() >= 60")
    assert page.evaluate(SHOWN) == [0, 60]
    assert "from=" not in page.url


@pytest.mark.long
def test_header_and_charts_follow_the_train_by_one_connection(open_page, platform):
    dataset = platform.kept("toys-20.jsonl", toy_rows(20))
    run = platform.start(dataset, max_steps=2000, sample_prompts=0)
    platform.training(run, step=2)
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"/trains/{run['id']}/evaluation/")
    first = page.evaluate(STEP)
    until(page, f"() => ({STEP})() > {first} + 20")
    assert sum("/events/" in url for url in asked) == 1
    assert not [url for url in asked if url.endswith("/live/") or "/metrics/" in url]
    platform.api("POST", f"trains/{run['id']}/stop/", json={"discard": True})
    page.locator("#train-head[data-state=stopped]").wait_for()


@pytest.mark.long
def test_a_warning_that_comes_while_the_page_is_open_is_shown(open_page, platform):
    """Answers without a rule can only be learned by heart, which the train warns of in its midst."""
    draw = random.Random(0)
    answers = ("".join(draw.choices("abcdefghijklmnop", k=12)) for _ in range(16))
    rows = [{"prompt": f"Ball {ball}?", "completion": text} for ball, text in enumerate(answers)]
    dataset = platform.kept("noise.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    platform.api("POST", "queue/pause/", by="olga")
    try:
        often = {
            "evaluation_split": 0.25,
            "evaluation_every": 0.005,
            "sample_prompts": 0,
            "learning_rate": 2e-3,
        }
        run = platform.start(dataset, method="sft", max_steps=4000, **often)
        page = open_page()
        page.goto(f"/trains/{run['id']}/")
        page.get_by_text("1st in line").wait_for()
    finally:
        platform.api("POST", "queue/resume/", by="olga")

    until(page, f"() => ({STEP})() > 2")
    warnings = page.locator("#train-warnings")
    expect(warnings).to_be_hidden()
    expect(warnings).to_contain_text("by heart", timeout=60_000)
    expect(warnings).to_be_visible()
    expect(page.locator("#train-head")).to_have_attribute("data-state", "running")
    platform.api("POST", f"trains/{run['id']}/stop/", json={"discard": True})
    page.locator("#train-head[data-state=stopped]").wait_for()


@pytest.mark.long
def test_bad_values_are_named_beside_their_field_and_do_not_start(open_page):
    page = open_page()
    upload(page, "toys-bad")
    page.goto("/trains/new/lora/")
    page.get_by_label("Base model").select_option(label="Tiny")
    page.get_by_label("Dataset", exact=True).select_option(label="toys-bad")
    for value, said in {
        "0": "above 0",
        "-1": "above 0",
        "abc": "number",
        "1e400": "finite",
    }.items():
        set_field(page, "learning_rate", value)
        expect(page.locator("#messages-learning_rate")).to_contain_text(said)
        expect(page.locator("[data-problems]")).to_contain_text("Learning rate")
    set_field(page, "learning_rate", "2e-4")
    expect(page.locator("#messages-learning_rate")).to_be_empty()
    set_field(page, "batch_size", "4000")
    expect(page.locator("#messages-batch_size")).to_contain_text("rows are left to train on")
    page.locator("#messages-batch_size").get_by_role("button").first.click()
    expect(page.locator("#id-batch_size")).not_to_have_value("4000")


@pytest.mark.long
def test_text_from_people_stays_text(open_page, platform):
    """Rows, names and logs with markup are shown and not run."""
    page = open_page()
    row = {
        "prompt": "<img src=x onerror=document.title=1>",
        "completion": "</script><script>document.title=2</script>",
    }
    nasty = json.dumps(row).encode() + b"\n"
    page.goto("/datasets/new/")
    page.locator("#id_file").set_input_files(
        {"name": "nasty.jsonl", "mimeType": "text/plain", "buffer": nasty * 3}
    )
    page.get_by_label("Name", exact=True).fill("<b>nasty</b>")
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url(re.compile(r"/datasets/\d+/"))
    shown = page.get_by_text("<img src=x onerror=document.title=1>").locator("visible=true")
    expect(shown.first).to_be_visible(timeout=60_000)
    expect(page.get_by_role("heading", level=1)).to_contain_text("<b>nasty</b>")
    assert page.locator("main img[src=x]").count() == 0
    assert page.title() not in ("1", "2")
