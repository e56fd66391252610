"""A train of several devices: it gets them together, others of its machine are busy with it, and
nothing stays kept or held for what is gone."""

import os
import random
import re
from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from django.utils import timezone
from redis.exceptions import RedisError

from core.errors import UserError
from jobs.devices import presence
from jobs.devices.locks import DeviceLocks
from jobs.devices.machines import machines_note, machines_present, most_devices
from jobs.devices.presence import Seat, devices_check, presence_remember, seat_of
from jobs.devices.sharing import shared_sides
from jobs.models import Machine
from jobs.queue import queue_insert
from tests.training.claims import machine_of, presences_of
from training.models import TrainRun
from training.pages import queue_page
from training.train.resuming import train_end_or_resume
from training.train.services import train_stop
from training.train.standing import activity_of
from training.work import claiming
from training.work.claiming import train_claim, waiting_trains_notify
from training.work.outcome import worker_lost
from training.work.queue import waiting
from training.work.reasons import waiting_reason

WIDE = {"devices": 2}


@pytest.fixture(autouse=True)
def home(settings, tmp_path):
    settings.HOME = tmp_path


class Workers:
    """The workers of some machines, as they claim trains and end them."""

    def __init__(self, *machines):
        self.machines = list(machines)
        self.held: dict[int, DeviceLocks] = {}

    def claim(self, identity: str, host: int = 0) -> TrainRun | None:
        machine = self.machines[host]
        locks = DeviceLocks()
        run = train_claim(
            Seat(machine, identity, self.machines),
            locks,
            worker=machine.workers[identity],
            host=machine.host,
            process="1:1",
            started_at=timezone.now(),
            heartbeat_at=timezone.now(),
        )
        if run is not None:
            self.held[run.pk] = locks
        return run

    def end(self, run: TrainRun, status: str = "finished") -> None:
        run.refresh_from_db()
        assert run.transition(TrainRun.Status(status), finished_at=timezone.now())
        self.held.pop(run.pk).close()


@pytest.fixture
def workers(db, monkeypatch):
    """Of one machine with two devices."""
    of = Workers(machine_of(2))
    monkeypatch.setattr(presence, "workers_present", lambda: presences_of(*of.machines))
    monkeypatch.setattr(queue_page, "workers_present", lambda: presences_of(*of.machines))
    machines_note(of.machines)
    yield of
    for locks in of.held.values():
        locks.close()


def test_it_gets_all_its_devices_together(workers, stand):
    stand("wide", parameters=WIDE)
    stand("narrow")
    run = workers.claim("cpu:1")
    assert (run.name, run.devices_text) == ("wide", "2 devices: cpu 0, cpu 1")
    assert workers.claim("cpu:0") is None

    workers.end(run)
    assert workers.claim("cpu:0").name == "narrow"


def test_two_narrow_ones_share_a_machine(workers, stand):
    stand("first")
    stand("second")
    claimed = [workers.claim(identity) for identity in ("cpu:0", "cpu:1")]
    assert [(run.name, run.devices_text) for run in claimed] == [
        ("first", "cpu 0"),
        ("second", "cpu 1"),
    ]


def test_while_it_gathers_its_machine_starts_nothing_that_is_not_expected_to_end(workers, stand):
    narrow = stand("runs")
    assert workers.claim("cpu:0") == narrow
    wide, behind = stand("wide", parameters=WIDE), stand("behind")
    assert workers.claim("cpu:1") is None
    wide.refresh_from_db()
    assert wide.gathers_on == workers.machines[0].key

    assert "gathers 2 devices" in waiting_reason(wide)
    assert "1 is free" in activity_of(wide, waiting_reason(wide))
    assert "kept for an earlier train" in waiting_reason(behind)

    workers.end(narrow)
    run = workers.claim("cpu:0")
    assert (run.name, run.gathers_on, run.gathers_until) == ("wide", "", None)


def test_a_short_one_goes_first_where_it_ends_before(workers, stand, make_train, monkeypatch):
    times = {"runs": 600, "long": 900, "short": 60}
    monkeypatch.setattr(
        claiming.Estimator,
        "of",
        lambda self, run: claiming_estimate(times.get(run.name)),
    )
    assert workers.claim("cpu:0") is None
    stand("runs")
    running = workers.claim("cpu:0")
    wide = stand("wide", parameters=WIDE)
    stand("long")
    stand("short")
    assert workers.claim("cpu:1").name == "short"

    wide.refresh_from_db()
    expected = running.started_at + timedelta(seconds=600)
    assert abs(wide.gathers_until - expected) < timedelta(seconds=5)


def claiming_estimate(seconds: float | None):
    from training.train.estimate import Estimate

    return None if seconds is None else Estimate(seconds, 0.0, 1)


def test_a_stop_while_it_gathers_lets_the_others_start(workers, stand, alice):
    workers.claim("cpu:0") or stand("runs")
    workers.claim("cpu:0")
    wide, _ = stand("wide", parameters=WIDE), stand("behind")
    assert workers.claim("cpu:1") is None
    assert train_stop(run=wide, by=alice).status == "stopped"
    wide.refresh_from_db()
    # Resumed some day, it must not gather by times that are long over.
    assert (wide.gathers_on, wide.gathers_until) == ("", None)
    assert workers.claim("cpu:1").name == "behind"


def test_it_stays_behind_what_was_first(workers, stand):
    """A train in front starts on a device that falls free, although a wide one behind gathers."""
    stand("runs")
    running = workers.claim("cpu:0")
    stand("also runs")
    also = workers.claim("cpu:1")
    stand("first")
    stand("wide", parameters=WIDE)
    workers.end(running)
    assert workers.claim("cpu:0").name == "first"
    workers.end(also)
    assert workers.claim("cpu:1") is None


def test_a_device_that_an_engine_has_not_left_is_not_free(workers, stand):
    """The database says that a train has ended, and its last process still computes."""
    engine = DeviceLocks()
    assert engine.take("cpu:0")
    stand("wide", parameters=WIDE)
    assert [workers.claim(name) for name in ("cpu:0", "cpu:1")] == [None, None]
    assert waiting_reason(TrainRun.objects.get()) == ""
    engine.close()
    assert workers.claim("cpu:1").name == "wide"


def test_a_worker_that_is_killed_while_it_has_devices_frees_them(workers, stand):
    """Its locks are gone with it; until the reconciler has seen that, the row says that it runs."""
    stand("wide", parameters=WIDE)
    stand("behind")
    run = workers.claim("cpu:0")
    workers.held.pop(run.pk).close()
    assert workers.claim("cpu:1") is None
    assert train_end_or_resume(run, worker_lost())
    assert workers.claim("cpu:1").name == "behind"


def test_people_take_turns_whatever_they_ask_for(workers, make_train, alice, bob, olga):
    """Trains of different people and widths start in the order of the queue, which is that of
    turns."""
    chance = random.Random(1)
    running: list[TrainRun] = []
    begun: list[int] = []
    expected: list[int] = []
    arriving = [chance.choice((alice, bob, olga)) for _ in range(30)]

    while arriving or running or waiting().exists():
        for owner in arriving[:2]:
            run = make_train(owner=owner, parameters={"devices": chance.choice((1, 1, 2))})
            queue_insert(run)
            run.save()
        del arriving[:2]

        if running and chance.random() < 0.7:
            workers.end(running.pop(chance.randrange(len(running))))

        for identity in ("cpu:0", "cpu:1"):
            first = waiting().first()
            if (run := workers.claim(identity)) is not None:
                running.append(run)
                begun.append(run.pk)
                expected.append(first.pk)

    assert len(begun) == 30
    assert begun == expected


def test_nothing_that_comes_later_is_put_before_one_that_gathers(
    workers, make_train, alice, bob, olga
):
    """Others who have no train would else start one after the other, each on the device that has
    just fallen free."""

    def queue(owner, **parameters) -> TrainRun:
        run = make_train(owner=owner, parameters=parameters)
        queue_insert(run)
        run.save()
        return run

    running = [queue(alice), queue(bob)]
    assert [workers.claim(name) for name in ("cpu:0", "cpu:1")] == running
    wide = queue(alice, devices=2)
    # The first look: from now on it gathers.
    waiting_trains_notify()
    behind = queue(olga)
    assert list(waiting()) == [wide, behind]

    workers.end(running[1])
    assert workers.claim("cpu:1") is None
    workers.end(running[0])
    assert workers.claim("cpu:1") == wide


def test_a_worker_that_is_gone_offers_its_device_no_more(workers, stand):
    """A train that gathers keeps nothing where too few workers are left, and says so."""
    stand("runs")
    workers.claim("cpu:0")
    wide = stand("wide", parameters=WIDE)
    assert workers.claim("cpu:1") is None
    wide.refresh_from_db()
    assert wide.gathers_on

    machine = workers.machines[0]
    del machine.devices["cpu:0"], machine.workers["cpu:0"]
    stand("behind")
    waiting_trains_notify()
    wide.refresh_from_db()
    assert wide.gathers_on == ""
    assert "has them, but only 1 worker now" in waiting_reason(wide)
    assert workers.claim("cpu:1").name == "behind"


@pytest.mark.parametrize("gathers", [True, False])
def test_what_a_restart_of_the_workers_takes_longer_to_bring_back_is_waited_for(
    workers, stand, monkeypatch, gathers
):
    """The second of four is up: the device of the first is free, those of the others are not there
    yet, and whoever waits behind a train of all four does not take what was kept for it."""
    workers.machines[0] = machine_of(4)
    whole = machine_of(4)
    wide, behind = stand("wide", parameters={"devices": 4}), stand("behind")
    if gathers:
        TrainRun.objects.filter(pk=wide.pk).update(gathers_on=whole.key)

    machine = workers.machines[0]
    for identity in ("cpu:0", "cpu:2", "cpu:3"):
        del machine.devices[identity], machine.workers[identity]

    def look() -> TrainRun | None:
        """As its worker claims, and as the housekeeping notifies."""
        waiting_trains_notify()
        seat = seat_of(machine.workers["cpu:1"])
        workers.machines[0] = seat.machine
        return workers.claim("cpu:1")

    monkeypatch.setattr(presence, "devices_recent", lambda host, slot: set(whole.devices))
    assert look() is None
    wide.refresh_from_db()
    assert wide.gathers_on == whole.key

    # One that stays away is waited for no longer.
    monkeypatch.setattr(presence, "devices_recent", lambda host, slot: set(machine.devices))
    assert look() == behind
    wide.refresh_from_db()
    assert wide.gathers_on == ""


def test_one_on_another_machine_starts_there(workers, stand):
    workers.machines.append(machine_of(4, "large"))
    stand("wide", parameters={"devices": 3})
    stand("narrow")
    assert workers.claim("cpu:0").name == "narrow"
    run = workers.claim("large:2", host=1)
    assert (run.host, run.devices_text) == ("large", "3 devices: cpu 0, cpu 1, cpu 2")


# What is refused, and what waits


def test_more_than_any_machine_has_is_refused(workers):
    devices_check(2, ("cpu",))
    with pytest.raises(UserError, match="3 devices are asked for; the machines here have 2"):
        devices_check(3, ("cpu",))
    # Only those that could run it count.
    Machine.objects.create(host="gpus", kind="cuda", devices=8)
    devices_check(8, ("cpu", "cuda"))
    with pytest.raises(UserError, match="have 2"):
        devices_check(3, ("cpu",))


@pytest.mark.django_db
def test_while_no_machine_is_known_nothing_is_refused():
    devices_check(64, ("cpu",))


def test_a_train_whose_machine_is_away_waits_and_says_why(workers, stand):
    Machine.objects.create(host="large", kind="cpu", devices=4)
    run = stand("wide", parameters={"devices": 4})
    behind = stand("behind")
    assert "large, which has them, is away" in waiting_reason(run)
    assert workers.claim("cpu:0") == behind

    Machine.objects.filter(host="large").delete()
    assert "None that is known here has so many" in waiting_reason(run)
    workers.machines.append(machine_of(4, "large"))
    assert waiting_reason(run) == ""


def test_machines_are_remembered_and_forgotten(workers):
    Machine.objects.create(host="old", devices=64, seen_at=timezone.now() - timedelta(days=31))
    workers.machines.append(machine_of(8, "new"))
    machines_note(workers.machines)
    assert most_devices() == 8
    assert not Machine.objects.filter(host="old").exists()


def test_workers_that_know_of_one_device_each_share_none(workers, stand):
    """As those that were started with CUDA_VISIBLE_DEVICES of their own."""
    lone = [presence | {"devices": 1} for presence in presences_of(*workers.machines)]
    parts = machines_present(lone)
    assert [list(part.devices) for part in parts] == [["cpu:0"], ["cpu:1"]]
    workers.machines = parts
    stand("wide", parameters=WIDE)
    stand("first")
    stand("second")
    assert workers.claim("cpu:1", host=1).name == "first"
    assert workers.claim("cpu:0", host=0).name == "second"


@pytest.mark.django_db
def test_a_worker_that_was_shown_one_device_has_one_machine_whoever_else_is_there():
    present = [
        presence | {"device": presence["device"] | {"of": 1, "visible": "3"}, "devices": 1}
        for presence in presences_of(machine_of(2, kind="cuda"))
    ]
    Machine.objects.create(host=present[0]["host"], kind="cuda", devices=8)
    machines_note(machines_present(present))
    assert most_devices() == 1

    alone = machines_present(present[:1])[0].key
    assert next(part.key for part in machines_present(present)) == alone


def test_a_worker_knows_its_own_device_while_the_queue_is_away(monkeypatch):
    (own,) = presences_of(machine_of(1, kind="cuda"))

    def fail():
        raise RedisError

    monkeypatch.setattr(presence, "workers_present", fail)
    presence_remember(own)
    seat = seat_of(own["name"])
    assert (seat.identity, seat.machine.kind) == ("cuda:0", "cuda")
    assert seat_of("another").machine.kind == "cpu"


# Notifications


def test_all_idle_workers_look_when_a_train_could_start(workers, stand, monkeypatch):
    sent = []
    monkeypatch.setattr("training.work.queue.waiting_calls", lambda *_: 0)
    monkeypatch.setattr(
        "training.work.queue._notify", lambda _, times: sent.append(times) if times else None
    )
    assert waiting_trains_notify() == 0
    workers.machines.append(machine_of(3, "large"))
    stand("wide", parameters={"devices": 3})
    assert waiting_trains_notify() == 5
    assert workers.claim("large:0", host=1)
    stand("too wide", parameters={"devices": 3})
    assert waiting_trains_notify() == 0
    assert sent == [5]


def test_workers_whose_device_is_lent_start_trains_on_free_ones(workers, stand, monkeypatch):
    """A notification may reach any of them."""
    workers.machines[:] = [machine_of(3)]
    stand("wide", parameters=WIDE)
    assert workers.claim("cpu:0").devices_text == "2 devices: cpu 0, cpu 1"
    stand("narrow")
    monkeypatch.setattr("training.work.queue.waiting_calls", lambda *_: 0)
    monkeypatch.setattr("training.work.queue.workers_notify", lambda times: None)
    assert waiting_trains_notify() == 2
    assert workers.claim("cpu:1").devices_text == "cpu 2"


def test_trains_begin_where_no_model_is_loaded(workers, stand):
    workers.machines[:] = [machine_of(2, kind="cuda")]
    sides = shared_sides("cuda:1")
    stand("first")
    stand("second")
    assert [workers.claim("cuda:1").devices_text for _ in range(2)] == ["cuda 0", "cuda 1"]
    for descriptor in sides:
        os.close(descriptor)


# Pages and API


def test_pages_say_which_devices_a_train_has_and_what_is_busy_with_it(
    client, alice, workers, stand
):
    stand("wide", parameters=WIDE)
    run = workers.claim("cpu:0")
    client.force_login(alice)

    page = BeautifulSoup(client.get("/trains/queue/").content, "html.parser")
    stations = [words(item) for item in page.select(".stations li")]
    assert re.search("cpu 0 .* wide .* on 2 devices: cpu 0, cpu 1", stations[0])
    assert re.search(rf"cpu 1 .* Busy with wide #{run.pk}", stations[1])
    assert len(page.select(f'form[action="/trains/{run.pk}/stop/"]')) == 1

    for path in (f"/trains/{run.pk}/", "/jobs/"):
        assert "2 devices: cpu 0, cpu 1" in words(client.get(path)), path
    assert client.get(f"/api/v1/trains/{run.pk}/").json()["devices"] == ["cpu 0", "cpu 1"]
    assert client.get(f"/api/v1/jobs/{run.number}/").json()["devices"] == ["cpu 0", "cpu 1"]
    lent = [station["is_lent"] for station in client.get("/api/v1/queue/").json()["stations"]]
    assert lent == [False, True]


def test_pages_say_that_a_train_gathers(client, alice, bob, workers, stand):
    stand("runs", owner=bob)
    workers.claim("cpu:0")
    wide = stand("wide", parameters=WIDE)
    stand("behind")
    client.force_login(alice)
    page = words(client.get("/trains/queue/"))
    assert "It gathers 2 devices" in page
    assert "Free devices are kept for an earlier train" in page
    assert "Free, kept for a train of 2 devices" in page
    assert "It gathers 2 devices" in words(client.get(f"/trains/{wide.pk}/"))
    places = client.get("/api/v1/queue/").json()["places"]
    assert [place["reason"][:10] for place in places] == ["It gathers", "Free devic"]
    # What strangers need, and where, is theirs.
    client.force_login(bob)
    places = client.get("/api/v1/queue/").json()["places"]
    assert [place["reason"][:10] for place in places] == ["", "Free devic"]
    client.force_login(alice)
    activity = client.get(f"/api/v1/trains/{wide.pk}/").json()["activity"]
    assert activity.startswith("It gathers 2 devices")


def words(answer) -> str:
    soup = (
        answer
        if hasattr(answer, "get_text")
        else BeautifulSoup(answer.content.decode(), "html.parser")
    )
    return " ".join(soup.get_text(" ", strip=True).split())
