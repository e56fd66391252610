"""The state machine: every pair of states, and races that only one caller may win."""

import itertools

import pytest

from jobs.models import IllegalTransition
from training.models import TrainRun

Status = TrainRun.Status
LEGAL = {
    ("queued", "running"),
    ("queued", "stopped"),
    ("queued", "failed"),
    ("running", "stopping"),
    ("running", "finished"),
    ("running", "failed"),
    ("running", "stopped"),
    ("stopping", "stopped"),
    ("stopping", "finished"),
    ("stopping", "failed"),
    ("failed", "queued"),
    ("stopped", "queued"),
}


@pytest.mark.parametrize(("start", "to"), list(itertools.product(Status.values, Status.values)))
def test_it_has_these_transitions_and_no_others(make_train, start, to):
    run = make_train(status=start)

    if (start, to) in LEGAL:
        assert run.transition(Status(to))
        run.refresh_from_db()
        assert run.status == to
    else:
        with pytest.raises(IllegalTransition):
            run.transition(Status(to))
        run.refresh_from_db()
        assert run.status == start


def test_of_two_who_move_a_train_one_wins_and_the_other_writes_nothing(make_train):
    run = make_train(status="running")
    first, second = TrainRun.objects.get(pk=run.pk), TrainRun.objects.get(pk=run.pk)

    assert first.transition(Status.FINISHED, error="first")
    assert not second.transition(Status.FAILED, error="second")

    run.refresh_from_db()
    assert (run.status, run.error) == ("finished", "first")


def test_an_overtaken_attempt_writes_nothing(make_train):
    run = make_train(status="running", attempt=2)

    assert not run.transition(Status.FAILED, attempt=1, error="late")

    run.refresh_from_db()
    assert (run.status, run.error) == ("running", "")
