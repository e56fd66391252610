"""What a page of the playground does while something else is still under way. Answers of the API are
the test's own, which come when it wants."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from playground.models import Answer, Conversation, Turn
from tests.browser.conftest import DESKTOP, until

pytestmark = pytest.mark.long

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


def test_a_correction_that_is_being_written_stays_when_the_next_prompt_is_sent(at_home, seen):
    with at_home(viewport=DESKTOP) as context:
        page = opened(context, seen)
        page.evaluate(SPEAK)
        page.get_by_role("button", name="Correct").click()
        correction = page.get_by_label("The answer as it should have been")
        correction.fill("A better answer")
        page.get_by_label("Message", exact=True).fill("Two?")
        page.get_by_role("button", name="Send", exact=True).click()
        until(page, "() => asked.some(({ url }) => url.endsWith('turns/'))")
        answers = [{"place": 0, "pane": 0, "state": "waiting", "text": "", "title": "Tiny"}]
        turn = {"id": 99, "position": 2, "text": "Two?", "verdict": "", "blind": False}
        page.evaluate(
            "turn => asked.find(({ url }) => url.endsWith('turns/')).resolve(turn)",
            turn | {"answers": answers},
        )
        expect(page.locator(".answer-cell").last).to_contain_text("Open")
        expect(correction).to_have_value("A better answer")
        expect(page.get_by_role("button", name="Save", exact=True)).to_be_visible()


# Tools

WEATHER = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CLOCK = {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}}


def test_results_of_tools_are_written_and_sent_by_keyboard(at_home, seen):
    Answer.objects.filter(place=0).update(text="", tool_calls=[WEATHER, CLOCK])
    Answer.objects.filter(place=1).update(state="done", error="", tool_calls=[WEATHER])
    with at_home(viewport=DESKTOP) as context:
        page: Page = context.new_page()
        page.goto(f"/playground/{seen['id']}/")
        page.evaluate(HOLD)
        page.evaluate(SPEAK)
        cells = page.locator(".answer-cell")
        first = cells.nth(0)
        expect(first.get_by_role("textbox")).to_have_count(2)
        expect(cells.nth(1).get_by_role("textbox")).to_have_count(1)

        # What is missing is asked for; what is no JSON is told, and sent.
        page.keyboard.press("Tab")
        first.get_by_label("Result of weather").fill('{"warm": ')
        expect(first).to_contain_text("not valid JSON")
        page.keyboard.press("Control+Enter")
        expect(first).to_contain_text("Enter what it returned")
        expect(first.get_by_label("Result of clock")).to_be_focused()
        sent = [call for call in asked(page) if "results" in call["url"]]
        assert sent == []

        page.keyboard.type("noon")
        page.keyboard.press("Control+Enter")
        sent = [call for call in asked(page) if "results" in call["url"]]
        results = [
            {"tool_call_id": "c1", "content": '{"warm": '},
            {"tool_call_id": "c2", "content": "noon"},
        ]
        assert [call["body"] for call in sent] == [{"results": results, "round": None}]
        number = [call["url"] for call in asked(page)].index(sent[0]["url"])
        earlier = {"text": "", "reasoning": "", "tool_calls": [WEATHER, CLOCK], "results": results}
        earlier |= {"tokens": 9, "rate": 3.0, "first_seconds": 0.5}
        answer = {"place": 0, "state": "waiting", "text": "", "tool_calls": []}
        answers = [answer | {"calls_waiting": [], "rounds": [earlier]}]
        page.evaluate(
            "([number, answers]) => reply(number, { verdict: '', answers })", [number, answers]
        )
        # It goes on below the results; the pane beside it still waits for its own.
        expect(first).to_contain_text("Open")
        expect(first.locator(".answer-result")).to_have_text(
            [re.compile("warm"), re.compile("noon")]
        )
        expect(cells.nth(1).get_by_label("Result of weather")).to_be_visible()


def test_a_prompt_that_is_too_long_is_not_sent(at_home, seen):
    with at_home(viewport=DESKTOP) as context:
        page = opened(context, seen)
        field = page.get_by_label("Message", exact=True)
        send = page.get_by_role("button", name="Send", exact=True)

        def write(text: str, *counts: int | None) -> None:
            """Counts of the panes as they come; None for a model that is not loaded."""
            field.fill(text)
            for count in counts:
                until(page, "() => asked.some((call) => call.body.count_only && !call.told)")
                page.evaluate(
                    """(count) => {
                      const call = asked.find(({ body, told }) => body.count_only && !told);
                      call.told = true;
                      call.resolve(count === null ? null : { count, context: 2048, pieces: [] });
                    }""",
                    count,
                )

        write("Long", 2310, 1200)
        line = page.locator("#play-count")
        words = re.compile(r"^2,310 tokens; Qwen3\S+ takes 2,048\.$")
        expect(line).to_have_text(words)
        expect(send).to_have_attribute("aria-disabled", "true")
        field.press("Control+Enter")
        expect(page.get_by_text(words).nth(1)).to_be_visible()
        assert not [call for call in asked(page) if "turns" in call["url"]]
        expect(field).to_have_value("Long")

        # Shorter, and where nobody can tell.
        write("Short", 20, 21)
        expect(line).to_have_text("20 | 21 tokens")
        expect(send).not_to_have_attribute("aria-disabled", "true")
        write("Anything", None, None)
        expect(line).to_have_text("")
        field.press("Control+Enter")
        until(page, "() => asked.some(({ url }) => url.endsWith('turns/'))")


def test_held_out_prompts_are_searched_and_go_on(at_home, seen):
    with at_home(viewport=DESKTOP) as context:
        page = opened(context, seen)
        page.get_by_role("button", name="Held-out prompts").click()
        dialog = page.get_by_role("dialog")

        def reply(texts: list[str], **more: Any) -> None:
            prompt = {"reference": "So.", "system": "", "earlier": 0, "is_cut": False}
            prompts = [prompt | {"text": text} for text in texts]
            values = {"prompts": prompts, "note": "Rows.", "next": "", "can_search": True} | more
            page.evaluate("values => asked.at(-1).resolve(values)", values)

        reply(["One?", "Two?"], next="2")
        expect(dialog.locator(".play-prompt")).to_have_text(["One?", "Two?"])
        dialog.get_by_text("Answer in the data").first.click()
        expect(dialog.get_by_text("So.").first).to_be_visible()
        dialog.get_by_role("button", name="Show more").press("Enter")
        assert "after=2" in asked(page)[-1]["url"]
        reply(["Three?"])
        expect(dialog.get_by_role("button", name="Three?")).to_be_focused()

        count = len(asked(page))
        dialog.get_by_label("Search prompts").fill("four")
        until(page, f"() => asked.length > {count}")
        assert "search=four" in asked(page)[-1]["url"]
        reply([])
        expect(dialog).to_contain_text("None holds “four”.")
        dialog.get_by_label("Search prompts").fill("five")
        until(page, f"() => asked.length > {count + 1}")
        reply(["Five?"])
        dialog.get_by_role("button", name="Five?").press("Enter")
        expect(page.get_by_label("Message", exact=True)).to_have_value("Five?")
