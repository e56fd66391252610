"""The doctor in a real browser: a finding is opened by the keyboard, its rows are walked through
and mended, one row is edited and one set aside, and the versions that come of it are one
dataset."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, axe_violations, overflows
from tests.live import Platform

pytestmark = pytest.mark.long

SIZES = (
    {"width": 1440, "height": 900},
    {"width": 1200, "height": 900},
    {"width": 1024, "height": 900},
    PHONE,
)


def chat(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def tickets() -> bytes:
    rows = [
        chat(("user", f"Where is parcel {number}?"), ("assistant", "At the depot."))
        for number in range(12)
    ]
    rows += [rows[0]]
    rows += [
        chat(("user", "Late."), ("user", f"Hello {number}?"), ("assistant", "Yes."))
        for number in range(3)
    ]
    rows += [chat(("user", "My password: hunter2!"), ("assistant", "I reset it."))]
    rows += [chat(("user", "Q"), ("assistant", ""))]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def problems_of(page: Page, where: str) -> list[str]:
    """What is wrong with the page at every size, in both themes."""
    found = []
    for size in SIZES:
        page.set_viewport_size(size)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            label = f"{where} at {size['width']} {scheme}"
            if overflows(page):
                found.append(f"{label}: scrolls sideways")
            narrow = page.evaluate(
                "() => [...document.querySelectorAll('.finding-name, .row-link, .before, .after')]"
                ".filter((part) => part.offsetParent && part.clientWidth && part.clientWidth < 100"
                " && part.scrollWidth > part.clientWidth).map((part) => part.className)"
            )
            found += [f"{label}: {name} is too narrow for its text" for name in narrow]
        found += [f"{where} at {size['width']}: {violation}" for violation in axe_violations(page)]
    page.set_viewport_size(SIZES[0])
    return found


def test_from_a_finding_to_one_version_of_all_repairs(open_page, platform: Platform):
    dataset = platform.upload("tickets.jsonl", tickets())
    page = open_page()
    page.goto(f"/datasets/{dataset['id']}/")
    found: list[str] = []

    # A finding opens with a key, and the focus stays where the reader is.
    finding = page.locator("#finding-two_turns")
    finding.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(finding.get_by_text("1 of 3")).to_be_visible()
    expect(finding.locator(".bubble-bad")).to_contain_text("Hello 0?")
    expect(finding.locator(".after")).to_contain_text("Late.")
    finding.get_by_role("link", name="Next row").focus()
    page.keyboard.press("Enter")
    expect(finding.get_by_text("2 of 3")).to_be_visible()
    expect(finding.get_by_role("link", name="Next row")).to_be_focused()
    assert "finding=two_turns&row=2" in page.url
    found += problems_of(page, "a finding")

    # Another one closes it; what is offensive is marked.
    secret = page.locator("#finding-secret")
    secret.locator("summary").click()
    expect(secret.locator("mark.offending")).to_have_text("hunter2!")
    expect(secret.locator(".after")).to_contain_text("[password]")
    expect(finding).not_to_have_attribute("open", re.compile(".*"))

    # One row is edited in its place, another one set aside, and nothing has changed yet.
    empty = page.locator("details.finding").filter(has_text="Empty text")
    empty.locator("summary").click()
    empty.get_by_role("link", name="Edit row").click()
    found += problems_of(page, "the editor")
    page.get_by_label("Text of turn 2").fill("An answer.")
    page.get_by_role("button", name="Save row").click()
    expect(page.get_by_role("heading", name="1 changed row")).to_be_visible()
    page.locator(".row-search input[type=search]").fill("parcel 7")
    page.keyboard.press("Enter")
    expect(page.locator("#preview mark.offending")).to_have_text("parcel 7")
    page.locator("#preview").get_by_role("button", name="Set aside").click()
    expect(page.get_by_role("heading", name="2 changed rows")).to_be_visible()
    found += problems_of(page, "changed rows")

    page.get_by_role("button", name="Make a version with them").click()
    expect(page.get_by_text("How this version was made")).to_be_visible(timeout=60_000)
    expect(page.locator("#aside")).to_contain_text("Line 8 of tickets")
    page.get_by_role("button", name="Make all safe repairs").click()
    expect(page.get_by_text("Mask keys and passwords: 1 row")).to_be_visible(timeout=60_000)
    expect(page.locator(".verdict")).to_contain_text("100%")

    # Three versions, one dataset.
    page.locator(".title-row .versions-menu summary").click()
    expect(page.locator(".title-row .versions-menu a")).to_have_count(3)
    page.goto("/datasets/")
    rows = page.locator("#datasets tbody tr").filter(has_text="tickets")
    expect(rows).to_have_count(1)
    rows.locator(".versions-menu summary").click()
    found += problems_of(page, "the list with its menu open")
    page.set_viewport_size(SIZES[0])
    rows.locator(".versions-menu a").last.click()
    expect(page.get_by_text("The newest is version 3")).to_be_visible()

    # The chosen dataset stays named, and the form takes its version along.
    page.get_by_role("link", name="Train with this").click()
    expect(page.locator(".chosen-dataset")).to_contain_text("tickets")
    found += problems_of(page, "the methods")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_label("Dataset", exact=True)).to_have_value(str(dataset["id"]))
    versions = page.locator("[name=dataset_version]")
    expect(versions.locator("option")).to_have_count(3)
    versions.select_option(index=0)
    expect(page.get_by_label("Dataset", exact=True)).not_to_have_value(str(dataset["id"]))
    expect(page.locator('[data-facts="dataset"]')).to_contain_text("16 rows")
    assert "\n".join(found) == ""
