"""Pages that follow something: what changes on them leaves a reader alone, what could not be fetched
is fetched again, and one that is no longer live says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import DESKTOP, until

pytestmark = pytest.mark.long


LOADED_AGAIN = """() => performance.getEntriesByType("resource")
  .filter(({ name }) => name.includes("/series/")).length > 1"""


# Every answer takes its time, so that a log is read for seconds.
SLOWLY = """{
  const real = window.fetch;
  window.fetch = async (...asked) => {
    await new Promise((done) => setTimeout(done, 50));
    return real(...asked);
  };
}"""


class Train:
    """A train that runs, as its page hears of it: what the server says, with what a test changes."""

    def __init__(self, page: Page, pk: str) -> None:
        self.pk = pk
        self.page = page
        answer = page.request.get(f"/api/v1/trains/{pk}/metrics/?after=0").json()
        self.rows = answer.pop("rows")
        self.said = answer | {"now": 1e9, "rows": []}
        page.route(f"**/api/v1/trains/{pk}/events/**", self.stream)

    def stream(self, route: Route) -> None:
        body = f"id: 1\ndata: {json.dumps(self.said)}\n\n"
        route.fulfill(content_type="text/event-stream", body=body)

    def says(self, **changes: Any) -> None:
        self.said = self.said | {"train": self.said["train"] | changes}


def pages_fetched(page: Page, path: str, answer: Callable[[Route, int], None]) -> list[str]:
    """The fetches of that page by its own scripts, each answered by answer(route, number)."""
    fetched: list[str] = []

    def take(route: Route) -> None:
        if route.request.resource_type != "fetch":
            route.fallback()
            return
        fetched.append(route.request.url)
        answer(route, len(fetched))

    page.route(f"**{path}", take)
    return fetched


@pytest.mark.parametrize("tab", ["", "log/"])
def test_another_phase_leaves_menu_focus_and_search_alone(
    at_home: Any, home: Any, tab: str
) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        train = Train(page, home["running"])
        fetched = pages_fetched(
            page, f"/trains/{train.pk}/{tab}", lambda route, _: route.continue_()
        )
        page.goto(f"/trains/{train.pk}/{tab}")
        expect(page.locator("[data-live=phase]")).to_be_visible()
        page.locator("#train-head").get_by_label("More actions").click()
        page.locator("#train-head details [role=menuitem], #train-head details a").first.focus()
        focused = page.evaluate("() => document.activeElement.textContent")

        train.says(phase="evaluating")
        expect(page.locator("[data-live=phase]")).to_have_text("Evaluating")
        assert fetched
        expect(page.locator("#train-head details.menu").first).to_have_attribute("open", "")
        assert page.evaluate("() => document.activeElement.textContent") == focused

        page.keyboard.press("Escape")
        page.keyboard.press("Control+k")
        expect(page.locator("#search-dialog")).to_be_visible()


def test_a_page_that_was_refused_is_fetched_again(at_home: Any, home: Any) -> None:
    """Otherwise a train that has ended would run for ever here."""

    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        train = Train(page, home["running"])
        page.goto(f"/trains/{train.pk}/")
        before = page.locator("#train-head h1").inner_text()

        def renamed(route: Route, number: int) -> None:
            if number == 1:
                route.fulfill(status=429, body="busy")
                return
            whole = route.fetch()
            route.fulfill(response=whole, body=whole.text().replace(before, "Renamed"))

        fetched = pages_fetched(page, f"/trains/{train.pk}/", renamed)
        train.says(phase="saving")
        expect(page.locator("#train-head h1")).to_have_text("Renamed", timeout=20_000)
        assert len(fetched) >= 2


def test_a_refused_stream_says_why_and_ends(at_home: Any, home: Any) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(f"/trains/{home['running']}/")
        expect(page.locator("#not-live")).to_be_hidden()
        context.clear_cookies()
        strip = page.locator("#not-live")
        expect(strip).to_contain_text("Not live since", timeout=30_000)
        expect(strip).not_to_contain_text("does not answer")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(4000)
        assert not any("/events/" in url for url in asked)
        with page.expect_request("**/events/**"):
            page.get_by_role("button", name="Try now").click()
        expect(strip).to_contain_text("Not live since")


def test_curves_of_another_attempt_are_loaded_and_not_appended(at_home: Any, home: Any) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        train = Train(page, home["running"])
        series: list[str] = []
        page.on(
            "request",
            lambda request: series.append(request.url) if "/series/" in request.url else None,
        )
        page.goto(f"/trains/{train.pk}/evaluation/")
        until(page, "() => !!document.querySelector('[data-chart] canvas')")
        until(page, "() => !document.querySelector('#charts').hasAttribute('aria-busy')")
        assert len(series) == 1
        newest = train.rows[-1]
        train.said["rows"] = [newest | {"seq": newest["seq"] + 1}]
        train.said["next"] = newest["seq"] + 1
        until(page, LOADED_AGAIN)


def test_parts_that_are_not_answered_say_that_they_are_not_live(at_home: Any, home: Any) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto("/jobs/")
        strip = page.locator(".page-head + .not-live")
        expect(strip).to_have_count(0)

        session = context.cookies()
        context.clear_cookies()
        expect(strip).to_contain_text("Not live since", timeout=40_000)
        expect(strip).to_contain_text("You are no longer signed in.")
        expect(strip.get_by_role("link", name="Sign in")).to_be_visible()
        assert page.locator("#main").evaluate("main => main.classList.contains('stale')")

        # Signed in again in another window.
        context.add_cookies(session)
        expect(strip).to_have_count(0, timeout=40_000)


def test_a_train_that_is_gone_leaves_the_list(at_home: Any, home: Any) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        gone = home["running"]

        def without(route: Route) -> None:
            whole = route.fetch()
            answer = whole.json()
            answer["rows"].pop(str(gone), None)
            route.fulfill(response=whole, json=answer)

        page.goto("/trains/?status=running")
        row = page.locator(f"#trains tr[data-train='{gone}']")
        name = row.get_attribute("data-name")
        row.locator("[data-pick]").check()
        page.route("**/trains/live/**", without)
        expect(page.get_by_text(f"#{gone} was deleted, or is no longer shared")).to_be_visible(
            timeout=15_000
        )
        assert str(name) not in page.locator("#trains").inner_html()
        expect(page.locator("#compare-bar")).to_be_hidden()


def test_what_a_line_of_a_sweep_says_stays_over_a_poll(at_home: Any, home: Any) -> None:
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        path = "/sweeps/{}/".format(home["sweep-running"])
        page.goto(path)
        page.locator(".trial-line").first.focus()
        said = page.locator("[data-lit]")
        text = said.inner_text()
        assert "Hover" not in text
        with page.expect_response(f"**{path}"):
            pass
        page.wait_for_timeout(500)
        assert said.inner_text() == text


def test_a_late_answer_is_not_written_below_another_part_of_the_log(
    at_home: Any, home: Any
) -> None:
    held: list[Route] = []
    holds: list[bool] = []

    def hold(route: Route) -> None:
        if holds and "offset=0" not in route.request.url:
            held.append(route)
        else:
            route.continue_()

    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.route("**/api/v1/trains/*/log/?offset=*", hold)
        page.goto(f"/trains/{home['running']}/log/")
        box = page.locator("#log pre.piece").first
        expect(box).to_be_visible()
        holds.append(True)
        with page.expect_request("**/log/?offset=*"):
            pass
        page.evaluate("() => DXLog.showPart(0)")
        expect(page.locator("#log-state")).to_contain_text("Around")
        for route in held:
            route.fulfill(json={"text": "a late line\n", "offset": 10_000_000, "size": 10_000_000})
        page.wait_for_timeout(300)
        expect(page.locator("#log")).not_to_contain_text("a late line")
        expect(page.locator("#log-state")).to_contain_text("Around")


def test_a_long_log_is_read_once_though_the_end_is_asked_for_meanwhile(
    at_home: Any, home: Any
) -> None:
    piece, size = 1 << 18, 24 << 20

    def answer(route: Route) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        offset = int(query["offset"][0])
        end = min(size, offset + int(query.get("limit", [piece])[0]))
        filling = "a line like any other, of which a log has many thousands\n"
        text = f"line {offset}\n" + filling * (1 + (end - offset) // len(filling))
        text = f"{text[: end - offset - 1]}\n" if end > offset else ""
        route.fulfill(json={"text": text, "offset": end, "size": size})

    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.add_init_script(SLOWLY)
        page.route("**/api/v1/trains/*/log/?offset=*", answer)
        page.goto(f"/trains/{home['finished']}/log/")
        until(page, "() => !document.querySelector('#log-whole').hidden")
        page.locator("#log-whole [data-end]").click()
        expect(page.locator("#log-state")).to_contain_text("complete", timeout=60_000)
        # The first poll goes on, and finds that somebody reads already.
        page.wait_for_timeout(1500)
        shown = page.evaluate(
            "() => document.getElementById('log').textContent.match(/line \\d+/g)"
        )
        # The first of 64 pieces begins in the middle of a line.
        assert len(shown) == len(set(shown)) == 63
