"""Parts of pages that htmx takes anew: what a reader does in them is left alone, and they rest when
nobody looks or nothing answers."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import DESKTOP

pytestmark = pytest.mark.long

HIDE = """() => {
  window.isHidden = false;
  Object.defineProperty(document, "hidden", { get: () => window.isHidden });
}"""
TURN = """(hidden) => {
  window.isHidden = hidden;
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def asked_of(page: Page) -> list[str]:
    """Paths that scripts of the page ask for, filled as they do."""
    asked: list[str] = []
    page.on(
        "request",
        lambda request: (
            asked.append(request.url) if request.resource_type in ("xhr", "fetch") else None
        ),
    )
    return asked


def answer_with(page: Page, path: str, **changes: str) -> None:
    """From now on scripts get that page with words exchanged."""

    def change(route: Route) -> None:
        answer = route.fetch()
        body = answer.text()
        if "hx-request" in route.request.headers:
            for old, new in changes.items():
                body = body.replace(old, new)
        route.fulfill(response=answer, body=body)

    page.route(f"**{path}", change)


def test_focus_menus_and_clicks_stay_where_a_part_is_taken_anew(at_home: Any, home: Any) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        asked = asked_of(page)
        page.goto(f"/models/{home['importing']}/")
        answer_with(page, f"/models/{home['importing']}/", Importing="Fetching")
        menu = page.locator("#model-actions details")
        page.get_by_label("More actions").click()
        page.get_by_role("button", name="Cancel the import").focus()
        expect(page.locator("#model-content")).to_contain_text("Fetching")
        expect(page.locator("#model-chip")).to_have_text("Fetching")
        expect(page.get_by_role("button", name="Cancel the import")).to_be_focused()
        assert len(asked) >= 1

        # An open menu stays open, and a dialog that asks is not moved from under its reader.
        page.get_by_label("More actions").click()
        expect(menu).to_have_attribute("open", "")
        asked.clear()
        with page.expect_response(f"**/models/{home['importing']}/"):
            pass
        expect(menu).to_have_attribute("open", "")
        page.get_by_role("button", name="Edit").click()
        expect(page.locator("#edit-dialog")).to_be_visible()
        page.wait_for_timeout(300)
        asked.clear()
        page.wait_for_timeout(2500)
        assert asked == []
        page.keyboard.press("Escape")
        with page.expect_response(f"**/models/{home['importing']}/"):
            pass


def test_a_part_stops_asking_when_nothing_is_pending(at_home: Any, home: Any) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        asked = asked_of(page)
        page.goto("/models/")
        answer_with(page, "/models/", **{"hx-get": "data-was"})
        with page.expect_response("**/models/"):
            pass
        page.wait_for_timeout(300)
        asked.clear()
        page.wait_for_timeout(2500)
        assert asked == []


def test_parts_rest_while_hidden_and_when_nothing_answers(at_home: Any, home: Any) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto("/trains/queue/")
        asked = asked_of(page)
        page.evaluate(HIDE)
        page.evaluate(TURN, True)
        page.wait_for_timeout(4500)
        assert asked == []
        page.evaluate(TURN, False)
        expect(page.locator("#queue")).to_be_visible()
        page.wait_for_timeout(300)
        assert len(asked) == 1

        # Whoever has signed out elsewhere sees the page as it was, and no sign-in inside it.
        context.clear_cookies()
        before = page.locator("#queue").inner_text()
        page.evaluate(TURN, False)
        with page.expect_response("**/login/**"):
            page.evaluate(TURN, False)
        page.wait_for_timeout(300)
        assert page.locator("#queue").inner_text() == before
        expect(page.get_by_label("Password")).to_have_count(0)
        # And it is asked ever more rarely: not at once again.
        asked.clear()
        page.evaluate(TURN, False)
        page.wait_for_timeout(500)
        assert asked == []
