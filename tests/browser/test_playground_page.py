"""What a page of the playground does while something else is still under way. Answers of the API are
the test's own, which come when it wants."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from playground.models import Answer, Conversation, Turn
from tests.browser.conftest import DESKTOP

# Requests of the page, each to be answered by reply(number, values).
HOLD = """() => {
  window.asked = [];
  DX.api = (url, { body = {}, signal } = {}) =>
    new Promise((resolve) => {
      document.body.dataset.asked = asked.push({ url, body, signal, resolve });
    });
  window.reply = (number, values) => asked[number].resolve(values);
}"""
# A stream that has said one word and goes on.
SPEAK = """() => {
  DXStream.answer = async (url, handlers) => {
    handlers.chunk({ choices: [{ delta: { content: "Open" } }] });
    await new Promise(() => {});
  };
}"""


@pytest.fixture
def seen(home) -> dict[str, Any]:
    """A conversation with two panes, the second of which has failed to answer."""
    owner = User.objects.get(username="alice")
    target = f"model-{home['model']}"
    pane = {"target": target, "title": "Tiny", "base_title": "", "sampling": {}}
    panes = [pane | {"id": number} for number in (0, 1)]
    conversation = Conversation.objects.create(owner=owner, name="Two", panes=panes)
    turn = Turn.objects.create(conversation=conversation, position=1, text="One?")
    told = {"turn": turn, "target": target, "title": "Tiny"}
    Answer.objects.create(**told, place=0, pane=0, state="done", text="An answer")
    Answer.objects.create(**told, place=1, pane=1, state="failed", error="Lost")
    return {"id": conversation.pk, "panes": panes}


def opened(context: Any, seen: dict[str, Any]) -> Page:
    page: Page = context.new_page()
    page.goto(f"/playground/{seen['id']}/")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    page.evaluate(HOLD)
    return page


def asked(page: Page) -> list[dict[str, Any]]:
    calls = "asked.map(({ url, body, signal }) => ({ url, body, left: !!signal?.aborted }))"
    found: list[dict[str, Any]] = page.evaluate(calls)
    return found


def test_quick_changes_of_settings_are_all_stored_and_no_reply_writes_over_a_field(at_home, seen):
    with at_home(viewport=DESKTOP) as context:
        page = opened(context, seen)
        page.locator("[data-sampling=temperature]").fill("0.1")
        page.locator("[data-sampling=seed]").fill("7")
        system = page.locator("#play-system")
        system.focus()
        page.keyboard.type("Be sh")
        # One at a time, and nobody waits for the first to see both.
        assert len(asked(page)) == 1
        expect(page.locator("[data-sampling=seed]")).to_have_value("7")

        first = asked(page)[0]["body"]["panes"]
        stored = [pane | one for pane, one in zip(seen["panes"], first, strict=True)]
        values = {"id": seen["id"], "panes": stored, "system_prompt": "", "tools": []}
        values |= {"response_format": {}, "blind": False, "may_change": True, "name": "Two"}
        page.evaluate("values => reply(0, values)", values)
        expect(page.locator("body")).to_have_attribute("data-asked", "2")
        sampling = [pane["sampling"] for pane in asked(page)[1]["body"]["panes"]]
        assert sampling == [{"temperature": 0.1, "seed": 7}] * 2
        expect(system).to_have_value("Be sh")


def test_a_thumb_leaves_the_answer_beside_it_alone_and_counting_goes_one_by_one(at_home, seen):
    with at_home(viewport=DESKTOP) as context:
        page = opened(context, seen)
        page.evaluate(SPEAK)
        page.get_by_role("button", name="Try again").click()
        second = page.locator(".answer-cell").nth(1)
        expect(second).to_contain_text("Open")
        page.get_by_role("button", name="Good answer").click()
        answers = [
            {"place": 0, "state": "done", "text": "An answer", "thumb": "up"},
            {"place": 1, "state": "writing", "text": ""},
        ]
        page.evaluate("answers => reply(0, { verdict: '', answers })", answers)
        good = page.get_by_role("button", name="Good answer")
        expect(good).to_have_attribute("aria-pressed", "true")
        expect(second).to_contain_text("Open")

        field = page.get_by_label("Message", exact=True)
        before = len(asked(page))
        field.fill("Two?")
        # What has a message in it is warmed at once, and counted when nobody has typed for a while.
        expect(page.locator("body")).to_have_attribute("data-asked", str(before + 2))
        assert asked(page)[-1]["body"]["count_only"]
        field.fill("Two or three?")
        assert [call["left"] for call in asked(page) if "tokens" in call["url"]] == [True]
