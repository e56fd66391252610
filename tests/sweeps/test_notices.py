"""A sweep has one notice, at its end or where it stops, and none for each of its trains."""

from __future__ import annotations

import pytest
from django.utils import timezone

from core.ownership import owner_set
from jobs.models import Notice
from sweeps.models import Sweep, Trial
from sweeps.needs import sweep_needs
from sweeps.notices import sweep_notice
from sweeps.services import sweep_stop
from tests.sweeps.conftest import advance, all_trained, run_begin, run_end, trials, waiting
from tests.sweeps.test_advancing import score
from training.models import TrainRun
from training.work.notices import train_notices_create


@pytest.fixture(autouse=True)
def webhook(settings):
    settings.WEBHOOK_URL = "http://127.0.0.1:9/"


def noticed(sweep: Sweep) -> list[Notice]:
    for trial in trials(sweep):
        if trial.run is not None and trial.run.ended:
            train_notices_create(trial.run)
    return list(Notice.objects.all())


def test_the_end_is_told_once(make_sweep):
    sweep = make_sweep()
    advance(sweep)
    run_end(waiting(sweep)[0].run, last_evaluation={"eval_loss": 1.5})
    assert noticed(sweep) == []

    all_trained(sweep, score)
    (notice,) = Notice.objects.all()
    last = max((trial.run for trial in trials(sweep)), key=lambda run: run.finished_at)
    assert notice.job_id == last.number
    told = sweep_notice(last, notice)
    assert told.event == "sweep.succeeded"
    assert told.subject == "Rates has succeeded"
    assert told.paragraphs[0].startswith("3 trains: 3 succeeded. Best eval loss 1.2")
    assert told.about["sweep"]["best_value"] == pytest.approx(1.2, abs=0.1)


def test_a_stop_is_told_with_its_reason(make_sweep):
    sweep = make_sweep()
    for _ in range(3):
        advance(sweep)
        run_end(waiting(sweep)[0].run, "failed", error="Memory ran out.")
    advance(sweep)
    (notice,) = Notice.objects.all()
    told = sweep_notice(TrainRun.objects.get(job=notice.job_id), notice)
    assert told.event == "sweep.stopped"
    assert "Memory ran out." in told.paragraphs[1]


def test_trains_that_are_stopped_with_their_sweep_are_no_news(make_sweep, alice):
    sweep = make_sweep()
    advance(sweep)
    first, second = waiting(sweep)
    for trial in (first, second):
        run_begin(trial.run)
    sweep_stop(sweep=sweep, by=alice)
    run_end(first.run, "stopped")
    # One came to its end before its stop.
    run_end(second.run)
    assert noticed(sweep) == []

    # Resumed by a person, the first one is.
    run_begin(first.run)
    run_end(first.run)
    (notice,) = noticed(sweep)
    assert notice.job_id == first.run.number


def test_a_pruned_train_that_ends_after_its_sweep_is_no_news(make_sweep):
    sweep = make_sweep()
    advance(sweep)
    run = waiting(sweep)[0].run
    run_end(run, "stopped")
    Trial.objects.filter(run=run).update(state="pruned", ended_at=timezone.now())
    Sweep.objects.update(status="succeeded", ended_at=run.created_at)
    assert noticed(sweep) == []
    # Resumed by a person, it is.
    run_end(run)
    assert len(noticed(sweep)) == 1


def test_who_is_given_a_train_of_a_sweep_hears_of_the_train_alone(make_sweep, bob, otto):
    sweep = make_sweep()
    for _ in range(2):
        advance(sweep)
        run_end(waiting(sweep)[0].run, "failed", error="Memory ran out.")
    advance(sweep)
    given = waiting(sweep)[0].run
    run_begin(given)
    owner_set(given, by=otto, owner=bob)
    run_end(given)
    train_notices_create(given)
    assert [notice.job_id for notice in Notice.objects.all()] == [given.number]
    # The sweep ends, and the train that ended last is not its owner's.
    advance(sweep)
    assert sweep.status == "stopped"
    told = [
        (notice.job_id == given.number, sweep_notice(run, notice) is not None)
        for notice in Notice.objects.all()
        for run in [TrainRun.objects.get(job=notice.job_id)]
    ]
    assert sorted(told) == [(False, True), (True, False)]


def test_a_reward_model_stays_while_a_sweep_scores_with_it(make_sweep, monkeypatch):
    sweep = make_sweep()
    all_trained(sweep, score)
    run = trials(sweep)[0].run
    choice = {"function": "reward_model", "weight": 1.0, "parameters": {"model": run.pk}}
    Sweep.objects.update(status="running", parameters={"rewards": [choice]})
    monkeypatch.setattr("sweeps.needs.is_reward_model", lambda run: True)
    assert "Stop the sweep first" in sweep_needs(run)
    Sweep.objects.update(status="stopped")
    assert sweep_needs(run) == ""
