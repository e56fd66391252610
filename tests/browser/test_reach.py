"""Messages, menus, lists and answers, as the keyboard, a finger and a screen reader meet them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import DESKTOP, PHONE, until

pytestmark = pytest.mark.long

# Controls under the messages: their texts. The main button of a page, and what stands in a bar,
# must not be there.
COVERED = """() => {
  const box = document.getElementById("toasts").getBoundingClientRect();
  const covers = (area) => area.width && box.left < area.right && area.left < box.right && box.top < area.bottom
    && area.top < box.bottom;
  return [...document.querySelectorAll(".compare-bar, .run-bar, .btn-primary, .btn-danger-text")]
    .filter((element) => element.checkVisibility() && covers(element.getBoundingClientRect()))
    .map((element) => element.textContent.trim());
}"""
TOAST = "(words) => words.forEach(([text, kind]) => DX.toast(text, kind))"
LONGEST = 30_000  # milliseconds after which every message but an error has left


def toast(page: Page, *words: tuple[str, str]) -> None:
    page.evaluate(TOAST, [list(pair) for pair in words])


def test_messages_leave_wait_for_a_reader_are_announced_and_do_not_pile_up(at_home):
    """In one page, since every test fills a home anew."""
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.clock.install()
        page.goto("/trains/")
        toasts = page.locator(".toast")

        # A success leaves by itself; an error stays. Both are announced, each in its way.
        toast(page, ("Saved.", "success"), ("The disk is full.", "error"))
        page.clock.run_for(200)
        expect(page.locator("#toast-status")).to_have_text("Saved.")
        expect(page.locator("#toast-alert")).to_have_text("The disk is full.")
        page.clock.run_for(LONGEST)
        expect(toasts).to_have_count(1)
        expect(toasts).to_contain_text("The disk is full.")

        # An error is closed by hand, and the focus is not lost with it.
        page.get_by_role("button", name="Close").focus()
        page.keyboard.press("Enter")
        expect(toasts).to_have_count(0)
        expect(page.locator("#main")).to_be_focused()

        # A message waits while somebody points at it.
        toast(page, ("A long explanation.", "warning"))
        toasts.hover()
        page.clock.run_for(LONGEST)
        expect(toasts).to_have_count(1)
        page.mouse.move(1, 1)
        page.clock.run_for(LONGEST)
        expect(toasts).to_have_count(0)

        # The same message again is counted, and of many the latest are kept, errors before others.
        toast(page, ("Copied.", "success"), ("Copied.", "success"), ("Copied.", "success"))
        expect(toasts).to_have_count(1)
        expect(toasts).to_contain_text("3×")
        toast(
            page,
            ("It failed.", "error"),
            *((f"Message {number}.", "success") for number in range(6)),
        )
        expect(toasts).to_have_count(3)
        expect(toasts.filter(has_text="It failed.")).to_have_count(1)


def test_a_message_of_the_server_leaves_too(at_home, home):
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.clock.install()
        page.goto(f"/datasets/{home['rated']}/")
        page.get_by_label("More actions").click()
        page.get_by_role("button", name="Archive").click()
        expect(page.locator(".toast")).to_have_count(1)
        page.clock.run_for(LONGEST)
        expect(page.locator(".toast")).to_have_count(0)


def test_messages_cover_no_bar_and_no_main_button(at_home, home):
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        for path in (
            "/trains/",
            f"/trains/new/lora/?copy={home['finished']}",
            f"/trains/{home['running']}/",
        ):
            for size in (DESKTOP, PHONE, {"width": 1024, "height": 600}):
                page.set_viewport_size(size)
                page.goto(path)
                if path == "/trains/":
                    for pick in page.locator("[data-pick]").all()[:2]:
                        pick.check()
                toast(
                    page,
                    *(
                        (f"Message {number} of some length, so that it has two lines.", "error")
                        for number in "123"
                    ),
                )
                assert page.evaluate(COVERED) == [], (path, size)


def test_menus_close_under_dialogs_and_get_the_focus_back(at_home, home):
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        for path, menu, entry in (
            ("/trains/?status=finished", page.locator(".cell-menu summary").first, "Delete"),
            (f"/trains/{home['finished']}/", page.get_by_label("More actions"), "Rename"),
        ):
            page.goto(path)
            menu.click()
            page.locator("details[open]").get_by_role("button", name=entry).click()
            expect(page.get_by_role("dialog")).to_be_visible()
            expect(page.locator("details.menu[open]")).to_have_count(0)
            page.keyboard.press("Escape")
            expect(page.get_by_role("dialog")).to_have_count(0)
            expect(menu).to_be_focused()


def test_long_answers_scroll_with_the_keyboard(at_home, home):
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(f"/trains/{home['grpo']}/evaluation/")
        expect(page.locator("#charts")).not_to_have_attribute("aria-busy", "true")
        answer = page.locator(".answer-text[tabindex='0']").first
        answer.focus()
        expect(answer).to_be_focused()
        page.keyboard.press("ArrowDown")
        until(page, "() => document.activeElement.scrollTop > 0", seconds=10)


def test_heads_that_sort_look_like_it_and_say_so(at_home):
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        for path, words in (
            ("/trains/", "Base model"),
            ("/datasets/", "Rows"),
            ("/models/", "Size"),
        ):
            page.goto(path)
            arrows = page.locator("thead .sort .icon:visible")
            assert arrows.count() == page.locator("thead .sort:visible").count() > 3
            page.get_by_role("link", name=words, exact=True).click()
            expect(page.locator("th[aria-sort='ascending']")).to_contain_text(words)
            expect(page.locator("th[aria-sort='ascending'] .icon")).to_have_css("opacity", "1")
