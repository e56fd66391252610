"""The pages of jobs in a real browser: they follow what happens, and ask before a job ends."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from jobs.models import Job
from tests.browser.conftest import DESKTOP

pytestmark = pytest.mark.long

# Milliseconds until a page has certainly asked again.
SOON = 20_000


@pytest.fixture(autouse=True)
def database_beside_the_browser(monkeypatch):
    """Playwright keeps an event loop in this thread, behind whose back nothing is waited for."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")


def test_the_list_follows_and_a_job_is_moved_and_stopped(at_home, home):
    job = Job.objects.get(number=home["job-waiting"])
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto("/jobs/?kind=model-import")
        waiting = page.locator(".jobs-waiting tbody tr")
        ended = page.locator(".jobs-ended tbody tr")
        expect(waiting).to_have_count(1)
        stop = page.get_by_role("button", name=f"Stop {job.name}")
        stop.focus()
        waiting.locator(".row-link").evaluate("link => getSelection().selectAllChildren(link)")

        # What comes in is there by itself, at the end of its line. Focus and selection stay.
        later = Job.objects.create(
            kind="model-import",
            name="later",
            owner_id=job.owner_id,
            lane=job.lane,
            place=1,
            key="model-import-0",
            arguments=[0],
        )
        expect(waiting).to_have_count(2, timeout=SOON)
        expect(waiting.nth(1)).to_contain_text("later")
        # The one above it pauses until it is tried again, and so has no place.
        expect(waiting.nth(1)).to_contain_text("1st")
        expect(waiting.first).not_to_contain_text("1st")
        expect(stop).to_be_focused()
        assert page.evaluate("getSelection().toString()") == job.name

        page.get_by_role("button", name="Move to the front: later").click()
        expect(waiting.first).to_contain_text("later")
        expect(page).to_have_url("/jobs/?kind=model-import")

        # Whoever thinks better of it has stopped nothing.
        stop = page.get_by_role("button", name="Stop later")
        stop.click()
        page.get_by_role("button", name="Keep waiting").click()
        later.refresh_from_db()
        assert later.status == Job.Status.QUEUED

        stop.click()
        page.get_by_role("dialog").get_by_role("button", name="Stop").click()
        expect(ended.filter(has_text="later")).to_contain_text("Stopped")
        expect(waiting).to_have_count(1)


def test_the_page_of_a_job_follows_it_and_its_log_to_the_end(at_home, home):
    job = Job.objects.get(number=home["job-running"])
    with at_home(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(f"/jobs/{job.number}/")
        expect(page.locator("#job")).to_contain_text("62%")
        expect(page.locator("#log")).to_contain_text("89,000 rows")

        with job.log_path.open("a") as log:
            log.write("one line more\n")
        expect(page.locator("#log")).to_contain_text("one line more", timeout=SOON)
        page.get_by_role("searchbox", name="Find in log").fill("8,000 rows")
        expect(page.locator("#log-matches")).to_have_text("1 of 9")

        Job.objects.filter(number=job.number).update(
            status=Job.Status.FAILED, error="The disk is full.", finished_at=job.started_at
        )
        expect(page.locator("#job .failure")).to_contain_text("The disk is full.", timeout=SOON)
        expect(page.locator("#log-state")).to_contain_text("complete", timeout=SOON)

        # Nothing more is asked of what has ended.
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(5000)
        assert asked == []

        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page).to_have_url("/jobs/")
        assert not Job.objects.filter(number=job.number).exists()
