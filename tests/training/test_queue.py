"""The queue of waiting trains: turns, priorities, moves, pauses, and who takes what."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone

import training.train.services
from core.errors import UserError
from jobs.models import Notice
from jobs.notices import notice_text
from jobs.queue import job_position as queue_position
from jobs.queue import queue_insert, starts_after_check
from tests.training.claims import claim
from training.models import TrainRun
from training.train.bulk import bulk_apply, bulk_plan
from training.train.estimate import Estimate, Estimator, starts
from training.train.services import train_delete, train_stop
from training.work import claiming
from training.work.queue import (
    queue_pause,
    queue_positions,
    queue_resume,
    queue_state,
    train_move,
    train_wait,
    waiting,
)

Priority = TrainRun.Priority


@pytest.fixture
def stand(make_train):
    """Put a train of that name into the queue, as a start does."""

    def stand(name: str, **fields) -> TrainRun:
        run = make_train(name=name, **fields)
        queue_insert(run)
        run.save()
        return run

    return stand


def names() -> list[str]:
    return list(waiting().values_list("name", flat=True))


def test_people_take_turns(stand, bob):
    for number in range(3):
        stand(f"alice-{number}")
    stand("bob-0", owner=bob)
    stand("bob-1", owner=bob)
    stand("alice-3")
    assert names() == ["alice-0", "bob-0", "alice-1", "bob-1", "alice-2", "alice-3"]


def test_a_train_that_runs_was_a_turn(stand, make_train, bob):
    make_train(status="running")
    stand("alice-1")
    stand("alice-2")
    stand("bob-0", owner=bob)
    stand("bob-1", owner=bob)
    assert names() == ["bob-0", "alice-1", "bob-1", "alice-2"]


def test_one_that_lost_its_worker_is_next(stand, make_train):
    stand("first")
    back = make_train(name="back")
    queue_insert(back, first=True)
    back.save()
    assert names() == ["back", "first"]


def test_a_higher_priority_goes_before_and_positions_say_so(stand):
    low = stand("low", priority=Priority.LOW)
    normal = stand("normal")
    high = stand("high", priority=Priority.HIGH)
    assert names() == ["high", "normal", "low"]
    assert [queue_position(run) for run in (high, normal, low)] == [1, 2, 3]
    assert queue_positions() == {high.pk: 1, normal.pk: 2, low.pk: 3}


def test_those_who_waited_before_there_were_places_keep_their_order(make_train):
    runs = [make_train(name=str(number), place=0) for number in range(3)]
    assert names() == ["0", "1", "2"]
    assert [queue_position(run) for run in runs] == [1, 2, 3]


@pytest.mark.parametrize(
    ("to", "expected"), [("front", "cabd"), ("up", "acbd"), ("down", "abdc"), ("back", "abdc")]
)
def test_an_operator_moves_among_all(stand, olga, to, expected):
    runs = {name: stand(name) for name in "abcd"}
    train_move(run=runs["c"], by=olga, to=to)
    assert "".join(names()) == expected


def test_an_owner_moves_among_the_own_and_nobody_else_moves(stand, alice, bob):
    stand("a0")
    stand("b0", owner=bob)
    stand("a1")
    last = stand("b1", owner=bob)
    assert names() == ["a0", "b0", "a1", "b1"]
    train_move(run=last, by=bob, to="front")
    assert names() == ["a0", "b1", "a1", "b0"]
    with pytest.raises(PermissionDenied):
        train_move(run=last, by=alice, to="front")


def test_moving_the_first_up_and_the_last_down_changes_nothing(stand, olga):
    first, last = stand("a"), stand("b")
    train_move(run=first, by=olga, to="up")
    train_move(run=last, by=olga, to="down")
    assert names() == ["a", "b"]


def test_equal_places_come_apart_when_somebody_moves(make_train, olga):
    runs = [make_train(name=name, place=0) for name in "abc"]
    train_move(run=runs[2], by=olga, to="front")
    assert names() == ["c", "a", "b"]


def test_what_runs_cannot_be_moved(make_train, olga):
    with pytest.raises(UserError, match="no longer waits"):
        train_move(run=make_train(status="running"), by=olga, to="front")
    with pytest.raises(UserError, match="no longer waits"):
        train_wait(run=make_train(status="finished"), by=olga, priority=Priority.LOW)


def test_only_operators_give_a_high_priority(stand, alice, olga):
    run = stand("a")
    with pytest.raises(UserError, match="Only an operator"):
        train_wait(run=run, by=alice, priority=Priority.HIGH)
    stand("b")
    train_wait(run=run, by=alice, priority=Priority.LOW)
    assert names() == ["b", "a"]
    train_wait(run=run, by=olga, priority=Priority.HIGH)
    assert names() == ["a", "b"]


def test_one_that_waits_for_another_is_passed_over_until_that_succeeds(stand, make_train):
    before = make_train(status="running")
    stand("after", starts_after=before)
    stand("other")
    assert claim("cpu").name == "other"
    assert claim("cpu") is None
    assert before.transition(TrainRun.Status.FINISHED)
    assert claim("cpu").name == "after"


def test_trains_cannot_wait_for_each_other_nor_for_what_failed(stand, make_train, alice):
    first = stand("first")
    second = stand("second", starts_after=first)
    with pytest.raises(UserError, match="wait for each other"):
        train_wait(run=first, by=alice, starts_after=second)
    with pytest.raises(UserError, match="wait for each other"):
        starts_after_check(first, first)
    with pytest.raises(UserError, match="ended without success"):
        train_wait(run=first, by=alice, starts_after=make_train(status="failed"))
    train_wait(run=second, by=alice, starts_after=None)
    second.refresh_from_db()
    assert second.starts_after is None


def by_service(client, run: TrainRun) -> str:
    with pytest.raises(UserError) as refusal:
        train_delete(run=run, by=run.owner)
    assert refusal.value.code == "in_use"
    return refusal.value.message


def by_api(client, run: TrainRun) -> str:
    return client.delete(f"/api/v1/trains/{run.pk}/").json()["error"]["message"]


def by_page(client, run: TrainRun) -> str:
    shown = client.get(f"/trains/{run.pk}/").content.decode()
    assert "Choose “Do not wait for it”" in shown
    return client.post(f"/trains/{run.pk}/delete/", follow=True).content.decode()


def by_bulk(client, run: TrainRun) -> str:
    [item] = bulk_apply(ids=[run.pk], by=run.owner, action="delete")
    assert not item.ok
    return item.message


def by_admin(client, run: TrainRun) -> str:
    chosen = {"action": "delete_selected", "_selected_action": [run.pk], "post": "yes"}
    answer = client.post("/admin/training/trainrun/", chosen, follow=True)
    return answer.content.decode()


@pytest.mark.parametrize("delete", [by_service, by_api, by_page, by_bulk, by_admin])
@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_what_others_wait_for_in_vain_is_not_deleted(stand, client, olga, delete, status):
    """Or those would start as if it had succeeded."""
    before = stand("before", owner=olga, status=status)
    after = stand("after", starts_after=before)
    client.force_login(olga)

    said = delete(client, before)

    assert f"Train #{after.pk} waits until this one has succeeded." in said
    assert TrainRun.objects.filter(pk=before.pk).exists()
    assert claim("cpu") is None


def test_it_is_deleted_once_nothing_waits_for_it(stand, alice):
    before = stand("before", status="failed")
    first, second = stand("first", starts_after=before), stand("second", starts_after=before)
    assert f"Trains #{first.pk}, #{second.pk} wait until" in by_service(None, before)

    train_wait(run=first, by=alice, starts_after=None)
    train_stop(run=second, by=alice)
    train_delete(run=before, by=alice)
    assert claim("cpu").name == "first"


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_what_a_stranger_has_waiting_keeps_nothing_and_is_stopped(
    client, settings, stand, alice, bob, status
):
    """Alice may not even see it; and it does not start as if her train had succeeded."""
    settings.WEBHOOK_URL = "http://127.0.0.1:9/"
    before = stand("before", shared=True, status=status)
    after = stand("after", owner=bob, starts_after=before)
    client.force_login(alice)
    assert f"#{after.pk}" not in client.get(f"/trains/{before.pk}/").content.decode()
    [planned] = bulk_plan(ids=[before.pk], by=alice, action="delete")
    assert planned.ok
    assert client.delete(f"/api/v1/trains/{before.pk}/").status_code == 204

    after.refresh_from_db()
    assert after.status == "stopped"
    assert claim("cpu") is None
    said = f"It was waiting for train #{before.pk}, which was deleted."
    client.force_login(bob)
    assert said in client.get(f"/trains/{after.pk}/").content.decode()
    [notice] = Notice.objects.filter(job=after.number)
    assert any(said in paragraph for paragraph in notice_text(notice).paragraphs)


def test_operators_and_whoever_deletes_for_its_owner_are_told_what_waits(
    stand, alice, bob, stan, otto
):
    """They can see it, and operators can stop it."""
    before = stand("before", status="failed")
    after = stand("after", owner=bob, starts_after=before)
    with pytest.raises(UserError, match=f"Train #{after.pk} waits"):
        train_delete(run=before, by=otto)

    own = stand("own", starts_after=before)
    stan.user_permissions.add(Permission.objects.get(codename="delete_trainrun"))
    with pytest.raises(UserError, match=f"Train #{own.pk} waits"):
        train_delete(run=before, by=User.objects.get(pk=stan.pk))

    after.refresh_from_db()
    assert after.status == "queued"


def test_a_deletion_that_would_be_refused_is_not_announced(stand, alice):
    before = stand("before", status="failed")
    after = stand("after", starts_after=before)
    [planned] = bulk_plan(ids=[before.pk], by=alice, action="delete")
    assert not planned.ok
    assert f"Train #{after.pk} waits until this one has succeeded." in planned.message


def test_what_begins_to_wait_while_it_is_being_deleted_keeps_it(stand, alice, monkeypatch):
    before = stand("before", status="failed")

    def atomic():
        stand("after", starts_after=before)
        return transaction.atomic()

    monkeypatch.setattr(training.train.services, "transaction", SimpleNamespace(atomic=atomic))
    with pytest.raises(UserError, match="waits until this one has succeeded"):
        train_delete(run=before, by=alice)

    assert claim("cpu") is None


def test_what_has_succeeded_is_deleted_though_another_waits(stand, alice):
    before = stand("before", status="finished")
    stand("after", starts_after=before)
    train_delete(run=before, by=alice)
    assert claim("cpu").name == "after"


def test_a_paused_queue_starts_nothing_until_it_is_open(stand, alice, olga):
    stand("a")
    with pytest.raises(PermissionDenied):
        queue_pause(by=alice)
    queue_pause(by=olga, reason="New disks")
    state = queue_state()
    assert (state.paused, state.paused_by, state.reason) == (True, olga, "New disks")
    assert claim("cpu") is None
    queue_resume(by=olga)
    assert claim("cpu").name == "a"


def test_a_worker_takes_only_what_its_device_can_run(stand):
    stand("quantised", parameters={"quantization": "4-bit"})
    stand("fp16", parameters={"precision": "fp16"})
    stand("plain", parameters={"precision": "fp32"})
    assert claim("cpu").name == "plain"
    assert claim("cpu") is None
    assert claim("cuda").name == "quantised"


def test_of_two_claims_each_gets_its_own(stand, monkeypatch):
    """The second sees a queue that is a moment old."""
    stand("a")
    stand("b")
    old = list(waiting())
    assert claim("cpu").name == "a"
    monkeypatch.setattr(claiming, "ready", lambda: Looked([old, list(waiting())]))
    assert claim("cpu").name == "b"


class Looked:
    """A queue as it is seen at each look."""

    looks: list = []

    def __init__(self, looks):
        type(self).looks = type(self).looks or looks

    def select_related(self, *_):
        return self.looks.pop(0)


# Estimates


@pytest.fixture
def ran(make_train):
    """A finished train of that many seconds for 100 rows."""

    def ran(seconds: float, **fields) -> TrainRun:
        now = timezone.now()
        values = {
            "status": "finished",
            "step": 50,
            "started_at": now - timedelta(seconds=seconds),
            "finished_at": now,
            "parameters": {"batch_size": 2, "gradient_accumulation_steps": 1, "max_tokens": 64},
            "facts": {"device": {"name": "CPU"}},
        }
        return make_train(**values | fields)

    return ran


PLAIN = {"batch_size": 2, "gradient_accumulation_steps": 1, "max_tokens": 64}


def test_a_guess_is_the_median_of_trains_alike_with_its_error(ran, make_train):
    for seconds in (10, 20, 30, 40):
        ran(seconds)
    ran(9000, parameters=PLAIN | {"max_tokens": 2048})
    ran(9000, facts={"device": {"name": "GPU"}})
    guess = Estimator("CPU").of(make_train(parameters=PLAIN, planned_rows=200))
    # 25 s for 100 rows in the middle; the middle half lies between 20 and 30.
    assert (guess.seconds, guess.error, guess.trains) == (pytest.approx(50), pytest.approx(10), 4)


def test_without_a_train_alike_there_is_no_guess(make_train):
    assert Estimator("CPU").of(make_train(parameters=PLAIN, planned_rows=200)) is None


def test_starts_add_up_over_the_queue(ran, stand, make_train):
    ran(10)
    make_train(status="running", eta_seconds=4, parameters=PLAIN, planned_rows=100)
    first, second = (stand(name, parameters=PLAIN, planned_rows=100) for name in "ab")
    later = stand("c", parameters=PLAIN, planned_rows=100, starts_after=first)
    unknown = stand("d", parameters=PLAIN | {"max_tokens": 128}, planned_rows=100)
    behind = stand("e", parameters=PLAIN, planned_rows=100)

    guesses = starts({"a": 1}, "CPU")
    assert guesses[first.pk].seconds == pytest.approx(4)
    assert guesses[second.pk].seconds == pytest.approx(14)
    assert guesses[later.pk] is None
    assert guesses[unknown.pk].seconds == pytest.approx(24)
    assert guesses[behind.pk] is None

    for sizes in ({"a": 2}, {"a": 1, "b": 1}):
        guesses = starts(sizes, "CPU")
        assert guesses[first.pk] == Estimate(0.0, 0.0, 20)
        assert guesses[second.pk].seconds == pytest.approx(4)


def test_a_train_is_guessed_by_those_on_as_many_devices(ran, stand):
    wide = PLAIN | {"devices": 2}
    ran(10)
    ran(30, parameters=wide, step=25)
    narrow, broad = (stand("n", parameters=p, planned_rows=100) for p in (PLAIN, wide))
    assert [Estimator("CPU").of(run).seconds for run in (narrow, broad)] == [10, 30]


def test_a_wide_train_starts_when_so_many_devices_are_free(ran, stand, make_train):
    for parameters in (PLAIN, PLAIN | {"devices": 2}):
        ran(10, parameters=parameters)
    make_train(status="running", eta_seconds=4, parameters=PLAIN, planned_rows=100)
    stand("narrow", parameters=PLAIN, planned_rows=100)
    wide = stand("wide", parameters=PLAIN | {"devices": 2}, planned_rows=100)
    behind = stand("behind", parameters=PLAIN, planned_rows=100)
    too_wide = stand("too wide", parameters=PLAIN | {"devices": 3}, planned_rows=100)

    guesses = starts({"a": 2}, "CPU")
    assert guesses[wide.pk].seconds == pytest.approx(10)
    assert guesses[behind.pk].seconds == pytest.approx(15)
    assert guesses[too_wide.pk] is None
