"""Pages that ask again are told what the API's view would tell them, and nobody is told who would
not be."""

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from datasets_app.models import Dataset
from training.models import MetricRow, TrainRun
from training.pages import live_answers


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(live_answers.time, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def run(make_train):
    return make_train(status="running", attempt=1, step=3, total_steps=10)


def log(run, *seqs, step=None):
    for seq in seqs:
        values = {"loss": 1 / seq, "note": None}
        MetricRow.objects.create(
            run=run, seq=seq, step=step or seq, epoch=0.5, split="train", time=1e9, values=values
        )


def ask(client, run, after=0, **headers):
    headers = {"Accept": "application/json"} | headers
    return client.get(f"/api/v1/trains/{run.pk}/metrics/?after={after}", headers=headers)


def view(run, owner, after):
    """The answer to a session that the view has not answered yet."""
    stranger = Client()
    stranger.force_login(owner)
    return ask(stranger, run, after)


def view_says(run, owner, after):
    return view(run, owner, after).json()


def test_what_is_told_again_is_what_the_view_says(
    client, alice, run, clock, django_assert_num_queries
):
    client.force_login(alice)
    log(run, 1, 2)
    assert [row["seq"] for row in ask(client, run).json()["rows"]] == [1, 2]

    for new, after in [((), 2), ((3, 4), 2), ((), 3), ((7,), 4), ((), 9)]:
        log(run, *new)
        clock.now += 0.3
        told = ask(client, run, after)
        as_view = view(run, alice, after)
        assert (told.json(), told.headers) == (as_view.json(), as_view.headers)
        # Signing in once more, as view() does, changed the user's row.
        ask(client, run, after)
        with django_assert_num_queries(1):
            assert ask(client, run, after).json() == told.json()


def test_a_changed_state_is_told_within_the_fresh_time(client, alice, run, clock):
    client.force_login(alice)
    ask(client, run), ask(client, run)
    run.status = "stopping"
    run.save()
    assert ask(client, run).json()["status"] == "running"
    clock.now += live_answers.FRESH_SECONDS + 0.01
    assert ask(client, run).json() == view_says(run, alice, 0)
    assert ask(client, run).json()["status"] == "stopping"


def sign_out(client, user, run):
    session = client.cookies.copy()
    client.logout()
    client.cookies = session


def deactivate(client, user, run):
    user.is_active = False
    user.save()


def change_password(client, user, run):
    user.set_password("another-password-1")
    user.save()


def delete_user(client, user, run):
    TrainRun.objects.filter(owner=user).update(owner=get_user_model().objects.create_user("heir"))
    Dataset.objects.filter(owner=user).update(owner=None)
    user.delete()


def expire_session(client, user, run):
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))


def give_the_train_away(client, user, run):
    TrainRun.objects.filter(pk=run.pk).update(owner=get_user_model().objects.create_user("heir"))


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (sign_out, 401),
        (deactivate, 401),
        (change_password, 401),
        (delete_user, 401),
        (expire_session, 401),
        (give_the_train_away, 404),
    ],
)
def test_nobody_is_answered_who_could_not_open_the_page(client, alice, run, clock, end, status):
    client.force_login(alice)
    assert ask(client, run).status_code == 200
    assert ask(client, run).status_code == 200
    end(client, alice, run)
    assert ask(client, run).status_code == status


def test_rights_of_a_group_are_asked_again_when_it_changes(client, bob, run, clock, monkeypatch):
    """Whatever rule of permissions decides who sees a train."""

    def visible_to(rows, user):
        return rows.all() if user.has_perm("training.view_trainrun") else rows.none()

    monkeypatch.setattr(type(TrainRun.objects.all()), "visible_to", visible_to)
    monkeypatch.setattr(
        type(TrainRun.objects), "visible_to", lambda manager, user: visible_to(manager.all(), user)
    )
    group = Group.objects.create(name="readers")
    permission = Permission.objects.get(codename="view_trainrun")
    group.permissions.add(permission)
    bob.groups.add(group)
    client.force_login(bob)
    for add, remove in [
        (lambda: group.permissions.add(permission), lambda: group.permissions.remove(permission)),
        (lambda: bob.groups.add(group), lambda: bob.groups.remove(group)),
    ]:
        add()
        assert ask(client, run).status_code == 200
        assert ask(client, run).status_code == 200
        remove()
        assert ask(client, run).status_code == 404
        add()


def test_an_operator_who_is_none_any_more_sees_only_what_is_his(client, bob, run, clock):
    get_user_model().objects.filter(pk=bob.pk).update(is_staff=True, is_superuser=True)
    bob.refresh_from_db()
    client.force_login(bob)
    assert ask(client, run).status_code == 200
    assert ask(client, run).status_code == 200
    get_user_model().objects.filter(pk=bob.pk).update(is_staff=False, is_superuser=False)
    assert ask(client, run).status_code == 404


def test_nobody_else_is_admitted(client, alice, bob, run, clock):
    """One handler, as one web process is, asked by Alice's session, Bob's, nobody's, and a
    program's token."""
    client.force_login(alice)
    ask(client, run), ask(client, run)
    hers = client.cookies.copy()
    client.cookies.clear()
    assert ask(client, run).status_code == 401
    client.force_login(bob)
    assert ask(client, run).status_code == 404
    assert ask(client, run).status_code == 404
    client.cookies = hers
    assert ask(client, run).status_code == 200
    assert ask(client, run, Authorization="Token wrong").status_code == 401
    assert ask(client, run, Host="elsewhere.example").status_code == 400
    assert ask(client, run, Accept="image/png").status_code == 406


def test_one_train_admits_to_no_other(client, alice, bob, run, make_train, clock):
    other = make_train(owner=bob, status="running")
    client.force_login(alice)
    ask(client, run), ask(client, run)
    assert ask(client, other).status_code == 404
    run.owner = bob
    run.save()
    assert ask(client, run).status_code == 404


def test_a_deleted_train_is_gone(client, alice, run, clock):
    client.force_login(alice)
    ask(client, run), ask(client, run)
    run.delete()
    clock.now += 1
    assert ask(client, run).status_code == 404


def test_rows_that_the_next_attempt_takes_back_are_not_told(client, alice, run, clock):
    client.force_login(alice)
    log(run, 1)
    ask(client, run), ask(client, run, 1)
    log(run, 2, 3, 4)
    clock.now += 1
    assert [row["seq"] for row in ask(client, run, 1).json()["rows"]] == [2, 3, 4]

    run.metrics.filter(seq__gt=2).delete()
    run.attempt = 2
    run.save()
    log(run, 9, step=3)
    for after in (0, 2, 4, 9):
        clock.now += 1
        assert ask(client, run, after).json() == view_says(run, alice, after)


def test_more_than_is_kept_comes_from_the_view(client, alice, run, clock, monkeypatch):
    monkeypatch.setattr(live_answers, "ROWS_KEPT", 5)
    client.force_login(alice)
    ask(client, run), ask(client, run)
    for seqs in (range(1, 4), range(4, 8), range(8, 30), range(30, 33)):
        log(run, *seqs)
        clock.now += 1
        for after in (0, 2, seqs[0] - 1, seqs[-1]):
            assert ask(client, run, after).json() == view_says(run, alice, after)


def test_what_is_kept_of_sessions_and_trains_has_a_bound(
    client, alice, make_train, clock, monkeypatch
):
    monkeypatch.setattr(live_answers, "TRAINS_KEPT", 2)
    monkeypatch.setattr(live_answers, "MOST_SESSIONS", 3)
    client.force_login(alice)
    runs = [make_train(status="running", name=f"train {number}") for number in range(6)]
    for run in runs * 2:
        clock.now += 3
        assert ask(client, run).json()["train"]["id"] == run.pk
    middleware = client.handler._middleware_chain
    while not isinstance(middleware, live_answers.LiveAnswersMiddleware):
        middleware = middleware.__wrapped__
    assert len(middleware.visits) <= 3
    assert len(middleware.trains) <= 2
