"""Background work: who is next, what is ended, and what begins again."""

import os
import signal
import socket
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from core import chores, chores_worker
from core.chores import (
    DELIVERY_PAUSES,
    SHORT_PAUSES,
    Kind,
    chore_add,
    chore_cancel,
    chore_claim,
    chore_give_back,
    chores_ahead,
    chores_reconcile,
)
from core.chores_worker import ChoresWorker
from core.models import Chore
from core.processes import process_mark

ALICE, BOB, CAROL = 1, 2, 3
QUICK, NORMAL, LONG = Chore.Lane.values

endings: list[tuple] = []


def do_nothing(*arguments):
    pass


def never_end(*arguments):
    while True:
        time.sleep(1)


def break_off(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(*arguments):
    raise ConnectionRefusedError("the mail server is away")


def compute_for_ever(*arguments):
    os.kill(os.getpid(), signal.SIGXCPU)


def note_ending(*arguments, reason, limit_seconds):
    endings.append((*arguments, reason))


@pytest.fixture(autouse=True)
def kinds_of_chores(monkeypatch, db):
    """Kinds whose work is that of a function above."""
    endings.clear()
    known = {
        function.__name__: Kind(
            function.__name__, f"{__name__}.{function.__name__}", f"{__name__}.note_ending"
        )
        for function in (do_nothing, never_end, break_off, fail, compute_for_ever)
    }
    monkeypatch.setattr(chores, "_kinds", known)


def add(key, person=ALICE, *, kind="do_nothing", seconds=1.0, limit=None):
    chore_add(kind, key, key=key, person=person, expected_seconds=seconds, limit_seconds=limit)


def claim(lane=LONG):
    return chore_claim(lane, host=socket.gethostname(), process=process_mark(os.getpid()))


def all_in_order(lane=LONG):
    found = []
    while (chore := claim(lane)) is not None:
        found.append(chore.key)
        chore.delete()
    return found


def test_people_take_turns():
    for number in range(50):
        add(f"a{number}", ALICE)
    add("b0", BOB)
    add("b1", BOB)
    add("c0", CAROL)
    order = all_in_order()
    assert set(order[:3]) == {"a0", "b0", "c0"}
    assert set(order[3:5]) == {"a1", "b1"}


def test_who_comes_late_neither_waits_for_all_nor_catches_up():
    for number in range(10):
        add(f"a{number}", ALICE)
    for _ in range(5):
        claim().delete()
    for number in range(10):
        add(f"b{number}", BOB)
    order = all_in_order()
    assert order[:6] == ["a5", "b0", "a6", "b1", "a7", "b2"]


def test_what_takes_seconds_does_not_wait_behind_what_takes_hours():
    add("import", ALICE, seconds=7200)
    add("minutes", ALICE, seconds=300)
    add("check", BOB, seconds=1)
    assert claim(QUICK).key == "check"
    assert claim(QUICK) is None
    assert claim(NORMAL).key == "minutes"
    assert claim(LONG).key == "import"


def test_a_worker_helps_with_quicker_work_once_its_own_lane_is_empty():
    add("check", seconds=1)
    assert claim(LONG).key == "check"


def test_the_same_work_is_not_added_twice():
    add("a")
    add("a")
    assert Chore.objects.count() == 1
    claim()
    add("a")
    assert Chore.objects.count() == 1


def test_one_that_waits_says_how_many_go_first():
    add("a", ALICE)
    add("b", ALICE)
    assert (chores_ahead("a"), chores_ahead("b"), chores_ahead("unknown")) == (0, 1, None)


def test_one_that_waits_is_cancelled_at_once():
    add("a")
    assert chore_cancel("a")
    assert endings == [("a", "cancelled")]
    assert not Chore.objects.exists()
    assert not chore_cancel("a")


def test_nobody_works_longer_than_the_operator_allows(settings):
    settings.BACKGROUND_LIMIT_MINUTES = 2
    add("a", limit=10_000)
    add("b")
    add("c", limit=30)
    assert [chore.limit_seconds for chore in Chore.objects.order_by("key")] == [120, 120, 30]


@pytest.mark.parametrize("on_another_machine", [False, True])
def test_what_a_lost_worker_was_at_begins_again(on_another_machine):
    add("a")
    chore = claim()
    values = {"process": "1:1"}
    if on_another_machine:
        long_ago = timezone.now() - timedelta(hours=1)
        values |= {"host": "elsewhere", "heartbeat_at": long_ago}
    Chore.objects.update(**values)

    chores_reconcile()
    assert claim().pk == chore.pk


def test_what_is_worked_on_is_left_alone():
    add("a")
    claim()
    chores_reconcile()
    assert claim() is None


def test_what_takes_its_worker_down_every_time_is_given_up():
    add("a")
    for _ in range(len(SHORT_PAUSES) + 1):
        chore_give_back(claim())
    assert endings == [("a", "broke_off")]
    assert Chore.objects.get().status == "given_up"
    assert claim() is None


def test_a_restart_of_the_platform_counts_against_nobody():
    add("a")
    for _ in range(3 * (len(SHORT_PAUSES) + 1)):
        chore_give_back(claim(), uncounted=True)
    assert claim().starts == 1


@pytest.fixture
def worker(monkeypatch):
    # The database of a test lives in its connection.
    monkeypatch.setattr(chores_worker.connections, "close_all", lambda: None)
    monkeypatch.setattr(chores_worker, "HEARTBEAT_SECONDS", 0.01)
    return ChoresWorker(QUICK)


def test_work_that_is_done_leaves_nothing(worker):
    add("a")
    assert worker.work_once()
    assert not worker.work_once()
    assert (endings, Chore.objects.count()) == ([], 0)


def test_work_beyond_its_time_is_ended(worker, monkeypatch):
    add("a", kind="never_end")
    Chore.objects.update(limit_seconds=0)
    worker.work_once()
    assert endings == [("a", "too_long")]
    assert not Chore.objects.exists()


def test_work_beyond_its_processor_time_is_ended(worker):
    add("a", kind="compute_for_ever")
    worker.work_once()
    assert endings == [("a", "too_long")]


def test_work_that_is_cancelled_while_it_runs_is_ended(worker, monkeypatch):
    add("a", kind="never_end")
    heartbeat = chores_worker._heartbeat

    def cancelled_meanwhile(chore):
        assert chore_cancel("a")
        return heartbeat(chore)

    monkeypatch.setattr(chores_worker, "_heartbeat", cancelled_meanwhile)
    worker.work_once()
    assert endings == [("a", "cancelled")]
    assert not Chore.objects.exists()


def test_work_whose_subject_was_deleted_is_ended_without_a_word(worker, monkeypatch):
    add("a", kind="never_end")
    heartbeat = chores_worker._heartbeat

    def deleted_meanwhile(chore):
        chores.chore_drop("a")
        return heartbeat(chore)

    monkeypatch.setattr(chores_worker, "_heartbeat", deleted_meanwhile)
    worker.work_once()
    assert endings == []


def test_work_that_breaks_off_begins_again_and_is_given_up_in_the_end(worker):
    add("a", kind="break_off")
    for _ in SHORT_PAUSES:
        worker.work_once()
        assert Chore.objects.get().status == "waiting"
        end_pause()
    worker.work_once()
    assert endings == [("a", "broke_off")]
    assert Chore.objects.get().error == "The process ended with -9."


def end_pause():
    """As if the pause after a failure were over."""
    Chore.objects.update(due_at=timezone.now() - timedelta(seconds=1))


def deliver(kinds):
    kinds["fail"] = replace(kinds["fail"], pauses=DELIVERY_PAUSES)


def test_what_fails_is_tried_again_after_growing_pauses_for_a_day(worker):
    deliver(chores._kinds)
    add("mail", kind="fail")
    pauses = []
    for _ in DELIVERY_PAUSES:
        assert worker.work_once()
        assert not worker.work_once(), "it is not tried again without a pause"
        pauses.append((Chore.objects.get().due_at - timezone.now()).total_seconds())
        end_pause()

    assert pauses == sorted(pauses)
    assert pauses[0] > 50
    assert 23 * 3600 < sum(pauses) < 25 * 3600


def test_what_fails_every_time_is_given_up_and_operators_see_why(worker, client, olga):
    deliver(chores._kinds)
    add("mail", kind="fail")
    for _ in range(len(DELIVERY_PAUSES) + 1):
        end_pause()
        worker.work_once()
    assert endings == [("mail", "broke_off")]
    assert not worker.work_once()

    client.force_login(olga)
    chores_page = client.get("/admin/core/chore/").content.decode()
    assert "Given up" in chores_page
    assert "ConnectionRefusedError: the mail server is away" in chores_page


def test_what_was_given_up_can_be_added_again_and_is_forgotten_after_a_month(worker):
    add("a", kind="fail")
    Chore.objects.update(status="given_up", starts=4, started_at=timezone.now())
    add("a")
    assert (Chore.objects.get().status, Chore.objects.get().starts) == ("waiting", 0)

    Chore.objects.update(status="given_up", started_at=timezone.now() - timedelta(days=31))
    chores_reconcile()
    assert not Chore.objects.exists()


def test_a_pause_ends_when_somebody_asks_again(worker):
    add("a", kind="fail")
    worker.work_once()
    add("a")
    assert claim() is None
    chore_add("fail", "a", key="a", person=ALICE, expected_seconds=1, end_pause=True)
    assert claim().key == "a"


def test_what_waits_after_a_failure_gives_newcomers_no_turns_of_long_ago(worker):
    add("failing", ALICE, kind="fail")
    worker.work_once()
    for number in range(5):
        add(f"b{number}", BOB)
    for _ in range(3):
        claim().delete()
    for number in range(3):
        add(f"c{number}", CAROL)
    assert all_in_order() == ["b3", "c0", "b4", "c1", "c2"]


def test_what_is_slower_than_its_lane_moves_on_to_the_next(worker, monkeypatch):
    monkeypatch.setitem(chores.LANE_LIMITS, QUICK, 0)
    add("a", kind="never_end")
    worker.work_once()
    chore = Chore.objects.get()
    assert (chore.lane, chore.status, chore.starts) == (NORMAL, "waiting", 0)


def test_a_worker_that_stops_gives_its_work_back(worker):
    add("a", kind="never_end")
    worker.is_stopping = True
    worker.work_once()
    chore = Chore.objects.get()
    assert (chore.status, chore.starts, endings) == ("waiting", 0, [])


def test_operators_see_background_work_and_end_it(client, olga, alice):
    add("a")
    client.force_login(olga)
    page = "/admin/core/chore/"
    assert ">a<" in client.get(page).content.decode()
    chosen = {"action": "cancel", "_selected_action": [Chore.objects.get().pk]}
    assert client.post(page, chosen).status_code == 302
    assert endings == [("a", "cancelled")]

    client.force_login(alice)
    assert client.get(page).status_code == 302
