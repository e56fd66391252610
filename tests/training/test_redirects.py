"""A form's `next`: followed where it is a page of this site, ignored where it is not, and never an
error."""

from __future__ import annotations

import pytest

ACTIONS = ["stop", "save", "resume", "edit", "move", "wait"]
GOOD = ["/trains/?status=failed", "/datasets/"]
BAD = [
    "foo",
    "training:list",
    "admin:index",
    "//evil.example/",
    "https://evil.example/",
    "javascript:alert(1)",
    "/\\evil.example",
    "",
    "\x00",
    "é" * 3000,
    "http:///x",
    "[",
    "http://[",
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("target", GOOD + BAD)
def test_it_goes_back_to_a_page_of_this_site(client, alice, make_train, action, target):
    run = make_train(status="queued", name="before")
    client.force_login(alice)
    answer = client.post(
        f"/trains/{run.pk}/{action}/", {"next": target, "name": "after", "to": "front", "after": ""}
    )
    assert answer.status_code == 302
    assert answer["Location"] == (target if target in GOOD else run.get_absolute_url())


@pytest.mark.parametrize("target", GOOD + BAD)
def test_the_queue_goes_back_as_well(client, olga, target):
    client.force_login(olga)
    answer = client.post("/trains/queue/resume/", {"next": target})
    assert answer.status_code == 302
    assert answer["Location"] == (target if target in GOOD else "/trains/queue/")
