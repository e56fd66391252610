"""A train that is followed: every logged step once and in order, whatever breaks, and only for
those who may open its page."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.models import Session
from django.core import signing
from django.db import OperationalError, connections, transaction
from django.test import Client
from django.utils import timezone

from accounts.models import Token
from accounts.tokens import token_create
from core.sessions import SALT, SessionStore
from core.web import in_thread
from datasets_app.models import Dataset
from training.models import MetricRow, TrainRun
from training.pages import live_feed
from training.pages.live_access import SessionAccess, TokenAccess

pytestmark = [pytest.mark.long, pytest.mark.django_db(transaction=True)]
SECONDS = 60


class Everybody:
    def allows(self):
        return True


@dataclass
class Event:
    kind: str
    id: int | None
    data: dict

    @property
    def seqs(self):
        return [row["seq"] for row in self.data.get("rows", ())]


def parsed(text: bytes) -> Event:
    fields = dict(line.split(": ", 1) for line in text.decode().strip().split("\n"))
    data = json.loads(fields["data"])
    return Event(
        fields.get("event", "message"),
        int(fields["id"]) if "id" in fields else None,
        data if isinstance(data, dict) else {},
    )


# One for each time that a train was read.
READS = []


@pytest.fixture(autouse=True)
def quick(monkeypatch, transactional_db):
    """Looks often, and asks for rights before each event."""
    read_train = live_feed.read_train
    monkeypatch.setattr(
        live_feed, "read_train", lambda *given: [read_train(*given), READS.append(1)][0]
    )
    monkeypatch.setattr(live_feed, "READ_EVERY", 0.01)
    monkeypatch.setattr(live_feed, "READ_WAITING_EVERY", 0.01)
    monkeypatch.setattr(live_feed, "ALIVE_EVERY", 0.2)
    monkeypatch.setattr(live_feed, "ACCESS_EVERY", 0.0)
    yield
    assert live_feed._feeds == {}
    close_connections_of_threads()


def close_connections_of_threads():
    """Before the test database is emptied: a thread may still be reading for a page that left.

    The barrier makes each of the two threads come, once it has nothing else to do.
    """
    both = threading.Barrier(2, timeout=SECONDS)

    def close():
        connections.close_all()
        both.wait()

    for future in [in_thread._threads.submit(close) for _ in range(2)]:
        future.result()


@pytest.fixture
def run(make_train):
    return make_train(status="running", attempt=1, step=3, total_steps=10)


def log(run, *seqs, step=None):
    for seq in seqs:
        values = {"loss": 1 / seq, "note": None}
        MetricRow.objects.create(
            run=run, seq=seq, step=step or seq, epoch=0.5, split="train", time=1e9, values=values
        )


def done_whole(doing):
    """Where a thread reads a table right now, SQLite in memory refuses what a file would wait for."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with transaction.atomic():
                return doing()
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise


def follow(run, after, *doings, access=None):
    """The events that come before the first doing, those between it and the second, and so on.

    A doing is a function, called in a thread once there is nothing new: the train was read twice
    since the last one.
    """

    async def follows():
        parts = [[]]
        pending = list(doings)
        since = len(READS)
        stream = live_feed.follow(run.pk, after, access or Everybody())
        try:
            async for text in stream:
                event = parsed(text)
                if event.kind != "alive":
                    parts[-1].append(event)
                elif len(READS) < since + 2 or not parts[0]:
                    # Slow: how the train stands is what every page hears first.
                    continue
                elif not pending:
                    break
                else:
                    parts.append([])
                    await live_feed.in_thread(done_whole, pending.pop(0))
                    since = len(READS)
        finally:
            await stream.aclose()
        return parts

    return asyncio.run(asyncio.wait_for(follows(), SECONDS))


def test_a_page_gets_what_it_lacks_and_then_what_is_logged(run):
    log(run, 1, 2, 3)
    known, new = follow(run, 1, lambda: log(run, 4, 7))

    assert [event.seqs for event in known] == [[2, 3]]
    assert known[-1].id == 3
    assert known[-1].data["train"]["id"] == run.pk
    assert [seq for event in new for seq in event.seqs] == [4, 7]
    assert new[-1].id == 7


def test_an_event_says_what_the_api_says(run, client, alice):
    log(run, 1, 2)
    ((event,),) = follow(run, 0)
    client.force_login(alice)
    answer = client.get(f"/api/v1/trains/{run.pk}/metrics/?after=0").json()
    assert event.data.pop("now") > 1e9
    assert event.data == answer


def test_without_a_beginning_only_new_rows_come(run):
    log(run, 1, 2)
    known, new = follow(run, None, lambda: log(run, 3))
    assert [event.seqs for event in known] == [[]]
    assert [event.seqs for event in new] == [[3]]


def test_a_changed_state_is_an_event_without_rows(run):
    def stops():
        TrainRun.objects.filter(pk=run.pk).update(status="stopping")

    _, changed = follow(run, 0, stops)
    assert [(event.data["status"], event.seqs) for event in changed] == [("stopping", [])]


def test_the_end_is_said_and_ends_it(run):
    def ends():
        log(run, 9)
        TrainRun.objects.filter(pk=run.pk).update(status="finished")

    _, events = follow(run, 0, ends)
    assert events[-1].kind == "ended"
    assert [seq for event in events for seq in event.seqs] == [9]
    assert events[-2].data["status"] == "finished"


def test_whoever_was_cut_off_misses_no_row_and_gets_none_twice(run, monkeypatch):
    """Again and again, with rows logged in between, few and more than are kept."""
    monkeypatch.setattr(live_feed, "ROWS_KEPT", 5)
    monkeypatch.setattr(live_feed, "ROWS_AT_ONCE", 3)
    after, got, seq = 0, [], 0
    for count in (1, 4, 0, 30, 2, 7, 19):
        new = range(seq + 1, seq + count + 1)
        parts = follow(run, after, partial(log, run, *new))
        seq += count
        for event in (event for part in parts for event in part):
            got += event.seqs
            after = event.id

        log(run, *range(seq + 1, seq + 4))
        seq += 3
    for event in follow(run, after)[0]:
        got += event.seqs
    assert got == list(range(1, seq + 1))


def test_rows_that_the_next_attempt_takes_back_are_not_sent(run):
    log(run, 1, 2, 3, 4)

    def resumes():
        run.metrics.filter(seq__gt=2).delete()
        TrainRun.objects.filter(pk=run.pk).update(attempt=2)
        log(run, 9, step=3)

    def goes_on():
        log(run, 10, step=4)

    _, resumed, later = follow(run, 4, resumes, goes_on)
    assert [seq for event in resumed for seq in event.seqs] == [9]
    assert [seq for event in later for seq in event.seqs] == [10]


def test_a_train_is_read_once_for_all_who_follow_it(run, monkeypatch):
    monkeypatch.setattr(live_feed, "READ_EVERY", 0.1)
    READS.clear()

    async def one():
        stream = live_feed.follow(run.pk, 0, Everybody())
        async for _ in stream:
            break
        await asyncio.sleep(0.5)
        await stream.aclose()

    async def many():
        await asyncio.gather(*(one() for _ in range(30)))

    asyncio.run(many())
    assert 1 <= len(READS) <= 12


@pytest.mark.parametrize("failure", [OperationalError("away"), RuntimeError("broken")])
def test_a_train_that_cannot_be_read_is_waited_for(run, monkeypatch, failure):
    read_train = live_feed.read_train
    failures = iter([failure] * 3)

    def read(*given):
        if (problem := next(failures, None)) is not None:
            raise problem
        return read_train(*given)

    monkeypatch.setattr(live_feed, "read_train", read)
    log(run, 1)
    ((event,),) = follow(run, 0)
    assert event.seqs == [1]


# Who may follow


def sign_out(user, run):
    Session.objects.all().delete()


def deactivate(user, run):
    get_user_model().objects.filter(pk=user.pk).update(is_active=False)


def change_password(user, run):
    user.set_password("another-password-1")
    user.save()


def delete_user(user, run):
    TrainRun.objects.filter(owner=user).update(owner=get_user_model().objects.create_user("heir"))
    Dataset.objects.filter(owner=user).update(owner=None)
    user.delete()


def expire_session(user, run):
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))


def give_the_train_away(user, run):
    TrainRun.objects.filter(pk=run.pk).update(owner=get_user_model().objects.create_user("heir"))


def delete_the_train(user, run):
    run.delete()


def revoke_token(user, run):
    Token.objects.all().delete()


def expire_token(user, run):
    Token.objects.update(expiry=timezone.now() - timedelta(seconds=1))


def session_of(user, run):
    client = Client()
    client.force_login(user)
    return SessionAccess(client.session.session_key, run.pk)


def session_of_a_full_disk(user, run):
    client = Client()
    client.force_login(user)
    store = SessionStore()
    store.update(client.session.items())
    key = signing.dumps(dict(store.items()), salt=SALT, serializer=store.serializer, compress=True)
    Session.objects.all().delete()
    return SessionAccess(key, run.pk)


def token_of(user, run):
    token, _ = token_create(user=user, name="follower", scope="read")
    return TokenAccess(token.pk, run.pk)


OF_BOTH = (deactivate, delete_user, give_the_train_away, delete_the_train)


@pytest.mark.parametrize(
    ("access_of", "end"),
    [
        *((session_of, end) for end in (*OF_BOTH, sign_out, change_password, expire_session)),
        *((session_of_a_full_disk, end) for end in (*OF_BOTH, change_password)),
        *((token_of, end) for end in (*OF_BOTH, revoke_token, expire_token)),
    ],
)
def test_nobody_follows_who_could_not_open_the_page(alice, run, access_of, end):
    def ends():
        end(alice, run)
        if end is not delete_the_train:
            log(run, 5)

    parts = follow(run, 0, ends, access=access_of(alice, run))
    assert [event.kind for event in parts[0]] == ["message"]
    assert [event.kind for event in parts[1]] == ["closed"]


def test_rights_of_a_group_are_asked_again_when_it_changes(bob, run):
    group = Group.objects.create(name="readers")
    group.permissions.add(Permission.objects.get(codename="view_trainrun"))
    bob.groups.add(group)

    def leaves():
        bob.groups.remove(group)
        log(run, 1)

    seen, closed = follow(run, 0, leaves, access=session_of(bob, run))
    assert [event.kind for event in seen] == ["message"]
    assert [event.kind for event in closed] == ["closed"]


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_nobody_is_answered_whose_train_it_is_not(bob, run, seconds):
    ((event,),) = follow(run, 0, access=session_of(bob, run))
    assert event.kind == "closed"


# The address


def test_the_answer_is_a_stream_that_nothing_keeps(client, alice, run):
    client.force_login(alice)
    answer = client.get(f"/api/v1/trains/{run.pk}/events/", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer["Content-Type"]) == (200, "text/event-stream")
    assert (answer["Cache-Control"], answer["X-Accel-Buffering"]) == ("no-store", "no")


def test_a_server_without_streams_sends_what_there_is(client, alice, run):
    """Django's server for development: a browser connects again, and misses nothing."""
    client.force_login(alice)
    log(run, 1, 2, 3)

    def events(query):
        answer = client.get(f"/api/v1/trains/{run.pk}/events/{query}")
        texts = b"".join(answer.streaming_content).split(b"\n\n")[:-1]
        return [parsed(text) for text in texts]

    (first,) = events("?after=1")
    assert (first.seqs, first.id) == ([2, 3], 3)
    (silent,) = events("")
    assert (silent.seqs, silent.id) == ([], 3)
    TrainRun.objects.filter(pk=run.pk).update(status="finished")
    assert [event.kind for event in events("?after=3")] == ["message", "ended"]


@pytest.mark.parametrize(
    ("query", "header", "first"),
    [
        ("", None, None),
        ("?after=0", None, 0),
        ("?after=7", None, 7),
        ("?after=7", "9", 9),
        ("", "9", 9),
        ("?after=7", "nine", 7),
        ("?after=7", "9" * 30, 7),
    ],
)
def test_a_browsers_last_event_goes_before_the_address(
    client, alice, run, monkeypatch, query, header, first
):
    asked = []

    def once(pk, after):
        asked.append((pk, after))
        return [b""]

    monkeypatch.setattr("training.api.events.once", once)
    client.force_login(alice)
    headers = {} if header is None else {"Last-Event-ID": header}
    answer = client.get(f"/api/v1/trains/{run.pk}/events/{query}", headers=headers)
    assert b"".join(answer.streaming_content) == b""
    assert asked == [(run.pk, first)]


def test_refusals_are_json_for_those_who_take_events_alone(client, alice, bob, run):
    path = f"/api/v1/trains/{run.pk}/events/"
    headers = {"Accept": "text/event-stream"}
    assert client.get(path, headers=headers).status_code == 401
    client.force_login(bob)
    refused = client.get(path, headers=headers)
    assert (refused.status_code, json.loads(refused.content)["error"]["code"]) == (404, "not_found")
    client.force_login(alice)
    assert client.get(f"{path}?after=x", headers=headers).status_code == 400
    assert client.get(f"{path}?after={'9' * 5000}", headers=headers).status_code == 400
