"""The queue's page and its API: what runs where, who waits, and what strangers may know of it."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup
from django.contrib.auth.models import Permission

from jobs.devices import presence as worker_state
from tests.markup import HTMX, no_cache_mixes
from training.models import TrainRun
from training.pages import queue_page
from training.pages.queue_page import MOST_PLACES
from training.train.estimate import Estimate

Status = TrainRun.Status


@pytest.fixture
def one_worker(monkeypatch):
    """A worker that is there, without Redis."""
    present = [
        {
            "name": "worker-1",
            "host": "gpu-box",
            "process": "-",
            "device": {"kind": "cuda", "name": "NVIDIA L4", "memory_gb": 24.0},
        }
    ]
    monkeypatch.setattr(worker_state, "workers_present", lambda: present)
    monkeypatch.setattr(queue_page, "workers_present", lambda: present)


def page_of(client, user, path="/trains/queue/") -> BeautifulSoup:
    client.force_login(user)
    response = client.get(path)
    assert response.status_code == 200
    return BeautifulSoup(response.content, "html.parser")


def rows_of(page: BeautifulSoup) -> list[str]:
    return [
        " ".join(row.get_text(" ", strip=True).split())
        for row in page.select(".queue-table tbody tr")
    ]


@pytest.fixture
def line(make_train, alice, bob):
    """Bob's train runs, and Alice's and Bob's wait by turns."""
    running = make_train(
        name="canary-running",
        owner=bob,
        status=Status.RUNNING,
        worker="worker-1",
        total_steps=10,
        step=4,
    )
    waiting = [
        make_train(name=f"{'canary' if owner == bob else 'own'}-{place}", owner=owner, place=place)
        for place, owner in enumerate((bob, alice, bob, alice))
    ]
    return running, waiting


def test_people_see_their_own_trains_and_places_of_others_without_a_name(
    client, alice, line, one_worker
):
    page = page_of(client, alice)
    assert "canary" not in page.get_text()
    rows = rows_of(page)
    assert len(rows) == 4
    assert rows[0].startswith("1 Somebody else's train")
    assert rows[1].startswith("2 own-1 ")
    assert "NVIDIA L4" in page.get_text()
    assert "Busy with somebody else's train" in page.get_text()
    assert "4 trains" in " ".join(page.get_text().split())


def test_operators_see_whose_train_runs_where_and_may_stop_it(client, olga, line, one_worker):
    page = page_of(client, olga)
    running, waiting = line
    station = page.select_one(".stations").get_text(" ", strip=True)
    assert "canary-running" in station
    assert "40%" in station
    assert page.select_one(f'form[action="/trains/{running.pk}/stop/"]')
    assert page.select_one(f'form[action="/trains/{waiting[0].pk}/move/"]')
    assert page.select_one("#pause-reason")


def test_people_move_and_stop_their_own_alone_and_come_back_to_the_queue(
    client, alice, line, one_worker
):
    page = page_of(client, alice)
    _, waiting = line
    actions = {form["action"] for form in page.select("main form")}
    own = {
        f"/trains/{run.pk}/{act}/"
        for run in waiting
        if run.owner == alice
        for act in ("move", "stop")
    }
    assert actions == own
    last = waiting[3]
    response = client.post(f"/trains/{last.pk}/move/", {"to": "front", "next": "/trains/queue/"})
    assert response["Location"] == "/trains/queue/"
    assert [row.split()[1] for row in rows_of(page_of(client, alice)) if " own-" in row] == [
        "own-3",
        "own-1",
    ]
    assert not page.select("#pause-reason")


def test_a_start_that_can_be_guessed_is_a_time_and_one_that_cannot_is_said(
    client, alice, line, one_worker, monkeypatch
):
    _, waiting = line
    guesses = {waiting[1].pk: Estimate(720.0, 60.0, 3), waiting[3].pk: None}
    monkeypatch.setattr(queue_page, "starts_now", lambda state: guesses)
    rows = rows_of(page_of(client, alice))
    assert "in about 12 min" in rows[1]
    assert "not known yet" in rows[3]
    answer = client.get("/api/v1/queue/").json()
    assert answer["places"][1]["starts_in"]["seconds"] == 720.0
    assert answer["places"][1]["starts_at"]
    assert answer["places"][3]["starts_in"] is None


def test_the_api_says_the_same_and_no_more(client, alice, line, one_worker):
    client.force_login(alice)
    response = client.get("/api/v1/queue/")
    assert b"canary" not in response.content
    answer = response.json()
    assert [place["position"] for place in answer["places"]] == [1, 2, 3, 4]
    assert [place["name"] for place in answer["places"]] == [None, "own-1", None, "own-3"]
    for right in ("may_move", "may_stop"):
        assert [place[right] for place in answer["places"]] == [False, True, False, True]
    assert answer["waiting_count"] == 4
    (station,) = answer["stations"]
    assert (station["worker"], station["is_busy"], station["train"]) == ("worker-1", True, None)


def test_a_long_line_shows_its_beginning_and_ones_own(client, alice, bob, make_train, one_worker):
    for place in range(MOST_PLACES + 5):
        make_train(name="other", owner=bob, place=place)
    make_train(name="mine", place=999)
    rows = rows_of(page_of(client, alice))
    assert len(rows) == MOST_PLACES + 1
    assert rows[-1].startswith(f"{MOST_PLACES + 6} mine")


def test_a_train_whose_worker_does_not_answer_is_shown(client, alice, make_train, one_worker):
    make_train(
        name="orphan",
        status=Status.RUNNING,
        worker="gone",
        host="old-box",
        facts={"device": {"name": "Old CPU"}},
    )
    text = page_of(client, alice).select_one(".stations").get_text(" ", strip=True)
    assert "Free" in text
    assert "Old CPU" in text
    assert "does not answer" in text


def test_without_workers_or_trains_the_page_says_what_comes_next(client, alice):
    text = " ".join(page_of(client, alice).get_text().split())
    assert "Nothing is waiting" in text
    assert "until a training worker is running" in text


def test_a_pause_is_explained_where_it_is_made_and_ended_there(
    client, olga, alice, line, one_worker
):
    client.force_login(olga)
    response = client.post("/trains/queue/pause/", {"reason": "New disks."}, follow=True)
    assert response.redirect_chain[-1][0] == "/trains/queue/"
    text = " ".join(page_of(client, alice).get_text().split())
    assert "The queue is paused" in text
    assert "Reason: New disks." in text
    assert "when the queue is resumed" in text
    assert "Resume the queue" not in text
    assert "Resume the queue" in page_of(client, olga).get_text()
    client.post("/trains/queue/resume/")
    assert "The queue is paused" not in page_of(client, olga).get_text()


def test_the_part_that_changes_is_the_page_without_its_frame(client, alice, line, one_worker):
    client.force_login(alice)
    part = BeautifulSoup(client.get("/trains/queue/", headers=HTMX).content, "html.parser")
    assert part.select_one("#queue[hx-get='/trains/queue/'] .queue-table")
    assert part.select_one("html") is None
    assert no_cache_mixes(client, "/trains/queue/")


def test_a_worker_that_is_loading_is_no_missing_worker(client, alice, monkeypatch):
    monkeypatch.setattr(worker_state, "workers_present", list)
    monkeypatch.setattr(worker_state, "is_starting", lambda: True)
    text = " ".join(page_of(client, alice, "/trains/").get_text().split())
    assert "Starting. The training worker is loading its libraries" in text
    assert "Nothing will start now" not in text


def test_who_manages_the_queue_alone_moves_trains_and_is_offered_no_stop(
    client, bob, line, one_worker
):
    bob.user_permissions.set(
        Permission.objects.filter(codename__in=("manage_queue", "view_trainrun"))
    )
    client.force_login(bob)
    places = client.get("/api/v1/queue/").json()["places"]
    assert all(place["may_move"] for place in places)
    own = [place["owner"] == "bob" for place in places]
    assert False in own
    assert [place["may_stop"] for place in places] == own
    page = client.get("/trains/queue/", headers=HTMX).content.decode()
    assert page.count('data-no="Keep waiting"') == own.count(True)
