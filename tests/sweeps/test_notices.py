"""A sweep has one notice, at its end or where it stops, and none for each of its trains."""

from __future__ import annotations

import pytest

from jobs.models import Notice
from sweeps.models import Sweep
from sweeps.needs import sweep_needs
from sweeps.notices import sweep_notice
from tests.sweeps.conftest import advance, all_trained, run_end, trials, waiting
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
