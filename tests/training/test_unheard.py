"""A worker whose heartbeats no longer arrive: it is declared lost first, and has time to give up."""

import json
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from engine.contract.rundir import write_spec
from jobs.devices.lost_workers import (
    MARK,
    HeartbeatLoss,
    lost_mark_remove,
    worker_declare_lost,
)
from tests.training.test_resuming import SPEC
from training.models import TrainRun
from training.work.reconcile import lost_trains_close


@pytest.fixture
def silent(make_train, settings):
    """A train on another machine, without a heartbeat for longer than the limit."""
    settings.HEARTBEAT_LIMIT_SECONDS = 60
    run = make_train(status="running", host="elsewhere", process="1:1")
    run.heartbeat_at = timezone.now() - timedelta(seconds=61)
    run.save()
    run.directory.mkdir(parents=True, exist_ok=True)
    write_spec(run.directory, SPEC)
    yield run
    lost_mark_remove(run)


def status_after_look(run: TrainRun) -> str:
    lost_trains_close()
    run.refresh_from_db()
    return run.status


def mark_aged(run: TrainRun, seconds: float) -> None:
    path = run.directory / MARK
    path.write_text(json.dumps(json.loads(path.read_text()) | {"time": time.time() - seconds}))


def test_it_is_marked_first_and_lost_when_its_time_is_over(silent):
    assert status_after_look(silent) == "running"
    assert (silent.directory / MARK).exists()
    mark_aged(silent, 9.9)
    assert status_after_look(silent) == "running"
    mark_aged(silent, 10)
    assert status_after_look(silent) != "running"


def test_one_that_is_heard_again_has_lost_nothing(silent):
    status_after_look(silent)
    mark_aged(silent, 10)
    TrainRun.objects.filter(pk=silent.pk).update(heartbeat_at=timezone.now())
    assert status_after_look(silent) == "running"
    assert not (silent.directory / MARK).exists()


@pytest.mark.parametrize("content", ['{"attempt": 7, "time": 1}', "{torn", '{"attempt": 1}', "[]"])
def test_a_mark_of_another_attempt_or_a_torn_one_is_made_anew(silent, content):
    (silent.directory / MARK).write_text(content)
    assert status_after_look(silent) == "running"
    mark_aged(silent, 10)
    assert status_after_look(silent) != "running"


def test_a_clock_that_was_set_back_costs_another_wait(silent):
    status_after_look(silent)
    mark_aged(silent, -1000)
    assert status_after_look(silent) == "running"
    mark_aged(silent, 10)
    assert status_after_look(silent) != "running"


def test_who_is_marked_gives_up_and_not_for_a_moments_mark(silent, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loss = HeartbeatLoss()
    assert not loss.must_give_up(silent)
    worker_declare_lost(silent)
    assert not loss.must_give_up(silent)
    now[0] += 2.4
    assert not loss.must_give_up(silent)
    # Removed for a moment: a heartbeat arrived in between.
    lost_mark_remove(silent)
    assert not loss.must_give_up(silent)
    worker_declare_lost(silent)
    assert not loss.must_give_up(silent)
    now[0] += 2.5
    assert loss.must_give_up(silent)
    silent.attempt += 1
    assert not loss.must_give_up(silent)
