"""How long a train still needs: steps, evaluations, saving and sample answers, each as long as they
took before."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from engine.contract.arithmetic import checkpoints_left, evaluations_left
from engine.contract.rundir import EVENTS
from training.train.estimate import Estimator
from training.train.similar import rounds_of_similar
from training.train.time_left import RoundsLeft, rounds_left, time_left
from training.work.ingest import ingest

PARAMETERS = {
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_tokens": 64,
    "sample_prompts": 4,
}
FACTS = {"evaluate_every": 25, "save_every": 0, "evaluated_at": 0}
NOW = timezone.now()


def brute(after, total, evaluate_every, save_every):
    """As engine.run.callback.Plan.evaluates_at says it, step by step."""

    def saves(step):
        return step % save_every == 0 if save_every else step == total

    def evaluates(step):
        measured = saves(step) and not 0 < save_every < evaluate_every
        return step % evaluate_every == 0 or step == total or measured

    return sum(evaluates(step) for step in range(after + 1, total + 1)) if evaluate_every else 0


@pytest.mark.parametrize("total", [1, 10, 24, 100])
@pytest.mark.parametrize("evaluate_every", [0, 1, 4, 7, 200])
@pytest.mark.parametrize("save_every", [0, 1, 5, 8, 12, 300])
def test_evaluations_are_counted_as_the_engine_makes_them(total, evaluate_every, save_every):
    for after in range(total + 1):
        given = (after, total, evaluate_every, save_every)
        assert evaluations_left(*given) == brute(*given), given


def test_checkpoints_before_the_end_are_counted():
    assert checkpoints_left(0, 100, 25) == 3
    assert checkpoints_left(25, 100, 25) == 2
    assert checkpoints_left(0, 100, 0) == 0


@pytest.fixture
def train(make_train):
    """A train at step 50 of 100, one second a step, with its facts and phases."""

    def train(phases=(), spent=None, step=50, **facts):
        spent = {"training": [1, 50.0]} if spent is None else spent
        return make_train(
            status="running",
            step=step,
            total_steps=100,
            parameters=PARAMETERS,
            facts=FACTS | {"phases": [list(phase) for phase in phases], "spent": spent} | facts,
        )

    return train


def test_evaluation_saving_and_answers_are_part_of_the_time_left(train):
    spent = {
        "training": [2, 50.0],
        "evaluating": [2, 20.0],
        "saving": [1, 5.0],
        "answering": [1, 60.0],
    }
    run = train(spent=spent, evaluated_at=50)

    left = time_left(run, 100.0)

    # 50 steps, evaluations at 75 and 100, saving at the end, and the answers of the trained model.
    assert left.seconds == 50 + 2 * 10 + 5 + 60
    assert left.basis == "Includes evaluation, saving and sample answers as timed in this train."


def test_what_was_not_timed_yet_is_taken_from_similar_trains_or_named(train):
    run = train(evaluated_at=50, rounds_of_similar={"saving": 7.0, "trains": 3})

    left = time_left(run, 100.0)

    assert left.seconds == 50 + 7
    assert left.basis == (
        "Includes saving as timed in 3 similar trains. Does not include evaluation and sample "
        "answers, not timed yet."
    )


@pytest.mark.parametrize(
    ("phase", "step", "rounds", "no_steps"),
    [
        ("training", 50, {"evaluating": 3, "saving": 1, "answering": 1}, False),
        ("evaluating", 50, {"evaluating": 3, "saving": 1, "answering": 1}, False),
        ("saving", 50, {"evaluating": 3, "saving": 2, "answering": 1}, False),
        ("saving", 100, {"saving": 1, "answering": 1}, True),
        ("answering", 100, {"answering": 1}, True),
        ("answering", 60, {"answering": 1}, True),
    ],
)
def test_the_present_round_is_counted(train, phase, step, rounds, no_steps):
    """At step 50 of an evaluation every 25, the one of this step is still to come until it was
    logged."""
    assert rounds_left(train(step=step, evaluated_at=25), phase) == RoundsLeft(rounds, no_steps)


def test_while_the_answers_are_written_only_they_are_left(train):
    spent = {"training": [1, 100.0], "answering": [1, 180.0]}
    run = train(phases=[("answering", 1000.0)], spent=spent, step=100)

    assert time_left(run, 1030.0).seconds == 150
    assert time_left(run, 1300.0).seconds == 0


def test_before_the_first_step_nothing_is_estimated(train):
    assert time_left(train(spent={}, step=0), 5.0) is None


def test_an_estimate_counts_down_and_is_used_up(make_train):
    fields = {"status": "running", "eta_seconds": 60.0}
    run = make_train(eta_at=timezone.now() - timedelta(seconds=20), **fields)
    assert run.seconds_left == pytest.approx(40, abs=1)
    assert make_train(eta_at=timezone.now() - timedelta(minutes=5), **fields).seconds_left == 0
    for status in ("queued", "stopping", "stopped", "finished", "failed"):
        assert make_train(**fields | {"status": status}).seconds_left is None


def test_events_make_the_estimate(make_train):
    """From the phases of a real record: the evaluation and the answers before the first step are
    what is known."""
    run = make_train(status="running", parameters=PARAMETERS)
    run.directory.mkdir(parents=True, exist_ok=True)
    record = [
        (0.0, "phase", {"name": "loading model"}),
        (10.0, "phase", {"name": "preparing data"}),
        (
            11.0,
            "started",
            {"total_steps": 20, "steps_per_epoch": 20, "evaluate_every": 10, "save_every": 0},
        ),
        (11.0, "phase", {"name": "answering"}),
        (41.0, "phase", {"name": "evaluating"}),
        (51.0, "phase", {"name": "training"}),
        (61.0, "metrics", {"step": 10, "epoch": 0.5, "split": "train", "values": {"loss": 1.0}}),
    ]
    lines = [
        json.dumps({"v": 1, "seq": seq, "time": time, "type": kind} | values) + "\n"
        for seq, (time, kind, values) in enumerate(record, 1)
    ]
    (run.directory / EVENTS).write_text("".join(lines))

    ingest(run)

    # Ten steps of a second, evaluations at 10 and 20 of 10 s each, answers of 30 s; saving was
    # never timed.
    assert run.eta_seconds == pytest.approx(10 + 20 + 30)
    assert "Does not include saving" in run.eta_basis
    assert run.last_step_at.timestamp() == 61.0


def finished(make_train, step, seconds, training, **facts):
    spent = {
        "training": [1, training],
        "evaluating": [2, 10.0],
        "saving": [1, 4.0],
        "answering": [2, 20.0],
    }
    return make_train(
        status="finished",
        parameters=PARAMETERS,
        step=step,
        started_at=NOW - timedelta(seconds=seconds),
        finished_at=NOW,
        facts={"spent": spent} | facts,
    )


def test_what_does_not_grow_with_the_rows_is_not_scaled_with_them(make_train):
    """Ten steps of a second, and 50 seconds for loading, evaluation and answers: a train ten times
    longer takes 150 s and not ten times 60."""
    run = finished(make_train, step=10, seconds=60, training=10.0)

    estimate = Estimator().guess(
        run.method, run.base_model, PARAMETERS, rows=200, dataset_id=run.dataset_id
    )

    assert estimate.seconds == pytest.approx(100 + 50)


def test_rounds_of_similar_trains_are_their_median(make_train):
    run = finished(make_train, step=10, seconds=60, training=10.0)
    assert rounds_of_similar(run) == {"evaluating": 5, "saving": 4, "answering": 10, "trains": 1}
    run.parameters = PARAMETERS | {"max_tokens": 32}
    assert rounds_of_similar(run) == {}
