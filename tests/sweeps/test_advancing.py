"""How a sweep goes on: each search with each pruner, what ends it, and every moment at which
somebody stops it or its process can be killed."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

import sweeps.advancing
import sweeps.services
from core.errors import UserError
from core.ownership import owner_set
from datasets_app.models import Dataset
from datasets_app.services import dataset_delete
from jobs.models import IllegalTransition, Machine
from methods.changes import method_save
from methods.models import TrainingMethod
from methods.schema import method_fields
from sweeps.advancing import sweep_advance, sweeps_advance
from sweeps.models import Sweep, Trial
from sweeps.progress import trial_seconds
from sweeps.ranking import best_trial
from sweeps.services import (
    sweep_continue,
    sweep_delete,
    sweep_pause,
    sweep_start,
    sweep_stop,
)
from sweeps.space import space_of, values_key
from sweeps.standing import sweep_activity
from sweeps.study import Past, Plan, prune_ask, values_ask
from tests.chains.conftest import dataset_make
from tests.sweeps.conftest import (
    RATES,
    advance,
    all_trained,
    report,
    run_begin,
    run_end,
    trained,
    trials,
    waiting,
)
from training.models import TrainRun
from training.train.services import train_create, train_delete, train_stop
from training.work.queue import waiting as queue

State = Trial.State
Status = Sweep.Status

SPACES: dict[str, dict[str, Any]] = {
    "grid": RATES | {"lora_rank": {"values": [4, 8, 16]}},
    "random": {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "scale": "log"},
        "lora_rank": {"low": 4, "high": 64, "scale": "log"},
    },
    "tpe": {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "scale": "log"},
        "scheduler": {"values": ["cosine", "linear"]},
    },
}


@pytest.fixture
def lora_fields(model) -> dict[str, Any]:
    """As of a method that trains adapters or all weights."""
    fields = method_fields(TrainingMethod.objects.get(slug="lora"))
    adapter = replace(fields["adapter"], fixed=False, hidden=False, default="lora")
    return fields | {"adapter": adapter}


def score(values: dict[str, Any], step: int) -> float:
    """An eval loss that is lowest at a rate of 2e-4 and falls over the train."""
    distance = abs(math.log10(values["learning_rate"] / 2e-4))
    return 1 + distance + 0.01 * values.get("lora_rank", 0) + 10 / (step + 10)


@pytest.mark.parametrize("pruner", Sweep.Pruner.values)
@pytest.mark.parametrize("search", Sweep.Search.values)
def test_each_search_with_each_pruner_finds_the_best(make_sweep, search, pruner):
    sweep = make_sweep(space=SPACES[search], search=search, pruner=pruner, budget_trains=9)
    all_trained(sweep, score)

    assert sweep.status == Status.SUCCEEDED
    assert sweep.reason == "Its budget of 9 trains is used up."
    rows = trials(sweep)
    assert [trial.number for trial in rows] == list(range(1, 10))
    assert len({values_key(trial.values) for trial in rows}) == 9
    assert all(trial.run.parameters.items() >= trial.values.items() for trial in rows)
    pruned = [trial for trial in rows if trial.state == State.PRUNED]
    assert bool(pruned) == (pruner != "none")
    assert {trial.state for trial in rows} <= {State.COMPLETE, State.PRUNED}

    best = best_trial(sweep, rows)
    finals = [score(trial.values, 40) for trial in rows]
    assert best.value == min(finals)
    for trial in pruned:
        assert trial.run.status == "stopped"
        assert trial.reason.startswith(f"Pruned: at step {trial.judged_step} its ")


def test_a_pruned_train_says_by_what_it_lost(make_sweep):
    space = {"learning_rate": {"values": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 9e-4]}}
    sweep = make_sweep(space=space, pruner="median")
    # Good, better, and then all others worse: those lose at the first evaluation that counts.
    places: dict[str, int] = {}

    def falling(values, step):
        place = places.setdefault(values_key(values), len(places))
        return [1.9, 1.8][place] if place < 2 else 2.31

    all_trained(sweep, falling)
    pruned = [trial for trial in trials(sweep) if trial.state == State.PRUNED]
    assert len(pruned) == 4
    assert {trial.reason for trial in pruned} == {
        "Pruned: at step 10 its eval loss 2.31 was above the median 1.85 of 2 trains."
    }
    assert pruned[0].reports == [[10, 2.31]]
    assert sweep.status == Status.SUCCEEDED


def test_higher_is_better_where_the_metric_says_so(make_sweep):
    space = {"learning_rate": {"values": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 9e-4]}}
    sweep = make_sweep(space=space, pruner="median", metric="eval_mean_token_accuracy")

    places: dict[str, int] = {}

    def accuracy(values: dict[str, Any]) -> float:
        place = places.setdefault(values_key(values), len(places))
        return [0.8, 0.9][place] if place < 2 else 0.3

    for _ in range(6):
        advance(sweep)
        trial = waiting(sweep)[0]
        run_begin(trial.run)
        for step in (10, 20, 30, 40):
            report(trial.run, step, accuracy(trial.values), "eval_mean_token_accuracy")
            sweep_advance(sweep.pk)
            trial.run.refresh_from_db()
            if trial.run.status == "stopping":
                break
        run_end(trial.run, "stopped" if trial.run.status == "stopping" else "finished")

    advance(sweep)
    assert sweep.status == Status.SUCCEEDED
    assert best_trial(sweep, trials(sweep)).value == 0.9
    reasons = {trial.reason for trial in trials(sweep) if trial.state == State.PRUNED}
    assert reasons == {
        "Pruned: at step 10 its token accuracy, held out 0.3 was below the median 0.85 of 2 trains."
    }


@pytest.mark.parametrize("steps", [20, 28])
def test_trains_of_other_lengths_are_compared_where_the_same_share_is_done(make_sweep, steps):
    """Step 10 of 20 stands beside step 20 of 40; step 10 of 28 is at 35 per cent, where trains of 40
    steps that are evaluated at each quarter have no report."""
    space = {"batch_size": {"values": [1, 2, 4]}}
    sweep = make_sweep(space=space, pruner="median")
    for value in (1.0, 1.1):
        advance(sweep)
        trained(sweep, waiting(sweep)[0], lambda values, step, value=value: value)

    advance(sweep)
    (last,) = waiting(sweep)
    run_begin(last.run)
    TrainRun.objects.filter(pk=last.run.pk).update(total_steps=steps)
    report(last.run, 10, 5.0)
    advance(sweep)
    last.refresh_from_db()
    assert last.state == State.PRUNED
    assert "at step 10 its eval loss 5 was above the median 1.05 of 2 trains" in last.reason


def test_a_metric_of_every_step_is_pruned_by_its_means(make_sweep):
    sweep = make_sweep(pruner="median", metric="loss")
    for value in (1.0, 1.1):
        advance(sweep)
        run = waiting(sweep)[0].run
        run_begin(run)
        for step in range(1, 41):
            report(run, step, value + (0.5 if step % 2 else -0.5), "loss")
        run_end(run)

    advance(sweep)
    (last,) = waiting(sweep)
    run_begin(last.run)
    for step in range(1, 31):
        report(last.run, step, 2.0, "loss")
    advance(sweep)
    last.refresh_from_db()
    assert last.state == State.PRUNED
    assert "train loss 2 was above the median" in last.reason


def test_a_train_that_keeps_its_best_counts_with_the_checkpoint_that_it_keeps(make_sweep):
    """Evaluations come more often than checkpoints: the best one may have left no model."""
    sweep = make_sweep(parameters={"keep_best": True})
    advance(sweep)
    first = waiting(sweep)[0]
    run_begin(first.run)
    for step, value in ((10, 0.9), (20, 1.4), (40, 1.6)):
        report(first.run, step, value)
    run_end(first.run, best_value=0.9, best_step=10, outcome={"step": 40, "model_step": 20})
    advance(sweep)
    assert trials(sweep)[0].value == 1.4


@pytest.mark.parametrize(
    ("keeps_best", "expected"), [(False, 2.5), (True, 1.5)], ids=["last", "kept"]
)
def test_a_metric_of_every_step_counts_with_its_last_mean(make_sweep, keeps_best, expected):
    """One lucky batch at the end makes no best train."""
    sweep = make_sweep(metric="loss", parameters={"keep_best": keeps_best})
    advance(sweep)
    run = waiting(sweep)[0].run
    run_begin(run)
    for step in range(1, 41):
        base = 1.5 if step <= 20 else 2.5
        report(run, step, base + (0.5 if step % 2 else -0.5), "loss")
    run_end(run, outcome={"step": 40, "model_step": 20 if keeps_best else 40})
    advance(sweep)
    assert trials(sweep)[0].value == expected


def test_a_train_whose_loss_is_no_number_at_the_end_has_none(make_sweep):
    sweep = make_sweep(metric="loss")
    advance(sweep)
    run = waiting(sweep)[0].run
    run_begin(run)
    for step in range(1, 41):
        report(run, step, 1.0 if step < 39 else None, "loss")
    run_end(run)
    advance(sweep)
    assert trials(sweep)[0].reason == "It reported no train loss."


def test_no_more_trains_wait_than_make_sense(make_sweep, workers):
    """TPE chooses by results: one train a worker. The others keep one more ready."""
    for search, expected in (("tpe", 1), ("random", 2), ("grid", 2)):
        sweep = make_sweep(space=SPACES[search], search=search, budget_trains=9)
        advance(sweep)
        assert len(trials(sweep)) == expected, search
        workers.append(workers[0])
        advance(sweep)
        assert len(trials(sweep)) == expected + 1
        workers.pop()

    del workers[:]
    sweep = make_sweep(budget_trains=3)
    assert len(trials(advance(sweep))) == 1


def test_two_sweeps_and_a_train_of_one_person_are_that_persons_turns(
    make_sweep, alice, bob, model, toys
):
    """Whoever comes later waits for one train of theirs, and not for all."""
    for name in ("first", "second"):
        advance(make_sweep(name=name))

    values = {"method": Sweep.objects.first().method, "base_model": model, "dataset": toys}
    train_create(owner=alice, name="single", parameters={}, **values)
    type(toys).objects.update(shared=True)
    for name in ("bobs 1", "bobs 2"):
        train_create(owner=bob, name=name, parameters={}, **values)

    order = [run.name for run in queue()]
    assert order.index("bobs 1") == 1
    assert order.index("bobs 2") == 3
    assert len(order) == 7


def test_a_sweep_ends_by_hours(make_sweep):
    sweep = make_sweep(budget_hours=1.0)
    advance(sweep)
    first, second = waiting(sweep)
    run_begin(first.run)
    report(first.run, 40, 1.0)
    run_end(first.run, earlier_seconds=3700)
    advance(sweep)
    second.refresh_from_db()
    assert (second.state, second.run.status) == (State.STOPPED, "stopped")
    assert (sweep.status, sweep.reason) == (
        Status.SUCCEEDED,
        "Its budget of 1 hour is used up.",
    )


def test_every_combination_is_tried_once_whatever_the_search(make_sweep):
    space = {"lora_rank": {"low": 4, "high": 6}, "use_rslora": {"values": [True, False]}}
    for search in Sweep.Search.values:
        sweep = make_sweep(space=space, search=search, budget_trains=50)
        assert sweep.budget_trains == 6
        all_trained(sweep, lambda values, step: values["lora_rank"])
        keys = [values_key(trial.values) for trial in trials(sweep)]
        assert len(keys) == len(set(keys)) == 6


# Failures


def test_three_failures_in_a_row_stop_it_with_the_reason(make_sweep, alice):
    space = {"learning_rate": {"values": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 7e-4]}}
    sweep = make_sweep(space=space)
    for number in range(2):
        advance(sweep)
        run_end(waiting(sweep)[0].run, "failed", error=f"Memory ran out {number}.")
    advance(sweep)
    trained(sweep, waiting(sweep)[0], score)
    advance(sweep)
    for number in range(2, 5):
        assert sweep.status == Status.RUNNING
        run_end(waiting(sweep)[0].run, "failed", error=f"Memory ran out {number}.")
        advance(sweep)

    last = [trial for trial in trials(sweep) if trial.state == State.FAILED][-1]
    assert sweep.status == Status.STOPPED
    assert sweep.reason == (
        f"3 trains in a row have failed. The last one, #{last.run_id}: Memory ran out 4."
    )
    # The one that waited goes on when the sweep does.
    halted = [trial for trial in trials(sweep) if trial.is_halted]
    assert [trial.run.status for trial in halted] == ["stopped"]

    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)
    assert sweep.status == Status.RUNNING
    (again,) = [trial for trial in trials(sweep) if trial.pk == halted[0].pk]
    assert (again.run_id, again.run.status, again.state) == (
        halted[0].run_id,
        "queued",
        State.OPEN,
    )
    all_trained(sweep, score)
    assert sweep.status == Status.SUCCEEDED
    assert len(trials(sweep)) == 7


def test_a_metric_that_no_train_reports_stops_it(make_sweep):
    sweep = make_sweep()
    for _ in range(3):
        advance(sweep)
        run_begin(waiting(sweep)[0].run)
        run_end(waiting_or_running(sweep).run)

    advance(sweep)
    assert sweep.status == Status.STOPPED
    assert sweep.reason.endswith("It reported no eval loss.")


def waiting_or_running(sweep: Sweep) -> Trial:
    return next(each for each in trials(sweep) if each.run.status == "running")


@pytest.mark.parametrize("field", ["learning_rate", "memory"])
def test_a_combination_that_no_train_can_have_has_failed_and_the_others_go_on(
    make_sweep, monkeypatch, field
):
    sweep = make_sweep()
    real = sweeps.advancing.train_create
    refused = 2e-4

    def create(**values):
        if values["parameters"]["learning_rate"] == refused:
            raise UserError({field: ["Too high for this model."]})
        return real(**values)

    monkeypatch.setattr(sweeps.advancing, "train_create", create)
    all_trained(sweep, score)
    states = {trial.values["learning_rate"]: trial for trial in trials(sweep)}
    assert states[refused].state == State.FAILED
    assert states[refused].reason == "Too high for this model."
    assert sweep.status == Status.SUCCEEDED


def test_combinations_that_no_train_can_have_are_no_failures_in_a_row(make_sweep, monkeypatch):
    """A grid has those of one value one after the other."""
    space = {
        "learning_rate": {"values": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4]},
        "lora_rank": {"values": [4, 8]},
    }
    sweep = make_sweep(space=space)
    real = sweeps.advancing.train_create

    def create(**values):
        if values["parameters"]["learning_rate"] < 5e-4:
            raise UserError({"memory": ["It takes 80 GB."]})
        return real(**values)

    monkeypatch.setattr(sweeps.advancing, "train_create", create)
    all_trained(sweep, score)
    states = [trial.state for trial in trials(sweep)]
    assert states == [State.FAILED] * 8 + [State.COMPLETE] * 4
    assert sweep.status == Status.SUCCEEDED

    # But not for ever.
    def refuse(**values):
        raise UserError({"memory": ["It takes 80 GB."]})

    monkeypatch.setattr(sweeps.advancing, "train_create", refuse)
    sweep = advance(make_sweep(space=space))
    assert (sweep.status, len(trials(sweep))) == (Status.STOPPED, 10)
    assert sweep.reason == (
        "10 combinations in a row cannot be trained. The last one: It takes 80 GB."
    )


def test_refused_combinations_do_not_use_up_the_budget(make_sweep, monkeypatch):
    space = {"learning_rate": {"values": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4]}}
    real = sweeps.advancing.train_create
    refused: list[float] = []

    def create(**values):
        rate = values["parameters"]["learning_rate"]
        if len(refused) < 2:
            refused.append(rate)
            raise UserError({"learning_rate": ["Too high for this model."]})
        return real(**values)

    monkeypatch.setattr(sweeps.advancing, "train_create", create)
    sweep = make_sweep(space=space, budget_trains=3)
    advance(sweep)
    assert sweep_activity(sweep) == "2 of 3 trains: 2 waiting."
    all_trained(sweep, score)
    states = [trial.state for trial in trials(sweep)]
    assert states == [State.FAILED] * 2 + [State.COMPLETE] * 3
    assert sweep.reason == "Its budget of 3 trains is used up."

    refused.clear()
    sweep = make_sweep(space=space)
    all_trained(sweep, score)
    assert len(trials(sweep)) == 5
    assert sweep.reason == "Every combination was tried."


def test_a_train_that_failed_while_loading_counts_though_it_is_deleted(make_sweep, alice):
    """It ran, though it never came to know how many steps it has."""
    sweep = make_sweep(budget_trains=2)
    advance(sweep)
    run = waiting(sweep)[0].run
    run_begin(run)
    run_end(run, "failed", total_steps=0, error="The weights are damaged.")
    advance(sweep)
    train_delete(run=TrainRun.objects.get(pk=run.pk), by=alice)
    all_trained(sweep, score)
    assert [trial.state for trial in trials(sweep)] == [State.FAILED, State.COMPLETE]
    assert sweep.reason == "Its budget of 2 trains is used up."


@pytest.mark.parametrize(
    ("changes", "reason", "made"),
    [
        ({}, "Every combination was tried.", "2 of 3 trains"),
        ({"budget_trains": 50}, "Every combination was tried.", "2 of 3 trains"),
        ({"budget_trains": 2}, "Its budget of 2 trains is used up.", "2 of 2 trains"),
        ({"budget_hours": 9.0}, "Every combination was tried.", "2 trains"),
        (
            {"space": SPACES["random"], "search": "random", "budget_hours": 9.0},
            "A sweep makes at most 4 trains.",
            "2 trains",
        ),
    ],
    ids=str,
)
def test_what_was_given_alone_is_its_budget(make_sweep, settings, changes, reason, made):
    settings.SWEEP_TRAINS = 4
    if changes.get("budget_trains") == 50:
        settings.SWEEP_TRAINS = 50
    sweep = make_sweep(**changes)
    advance(sweep)
    assert sweep_activity(sweep) == f"{made}: 2 waiting."
    all_trained(sweep, score)
    assert (sweep.status, sweep.reason) == (Status.SUCCEEDED, reason)


def test_what_does_not_fit_waits_while_a_machine_is_away(make_sweep, monkeypatch):
    machine = Machine.objects.create(
        host="big", slot="0", kind="cuda", devices=1, seen_at=timezone.now()
    )
    sweep = make_sweep()
    real = sweeps.advancing.train_create

    def refuse(**values):
        raise UserError({"memory": ["It takes 80 GB."]})

    monkeypatch.setattr(sweeps.advancing, "train_create", refuse)
    advance(sweep)
    (trial,) = trials(sweep)
    assert (trial.state, trial.run) == (State.OPEN, None)
    assert trial.reason == "It waits for a machine that is away. It takes 80 GB."
    assert sweep_activity(sweep) == f"1 of 3 trains. {trial.reason}"

    monkeypatch.setattr(sweeps.advancing, "train_create", real)
    advance(sweep)
    trial = trials(sweep)[0]
    assert (trial.run.status, trial.reason) == ("queued", "")

    Machine.objects.filter(pk=machine.pk).update(seen_at=timezone.now() - timedelta(hours=2))
    monkeypatch.setattr(sweeps.advancing, "train_create", refuse)
    run_end(trial.run, "stopped")
    advance(sweep)
    assert trials(sweep)[-1].state == State.FAILED


def test_one_whose_every_train_fails_has_not_succeeded(make_sweep):
    sweep = make_sweep(budget_trains=2)
    for _ in range(2):
        advance(sweep)
        run_end(waiting(sweep)[0].run, "failed", error="Memory ran out.")

    advance(sweep)
    assert sweep.status == Status.STOPPED
    assert sweep.reason == (
        "Its budget of 2 trains is used up. None has succeeded. The last one that failed: Memory ran out."
    )


@pytest.mark.parametrize("what", ["disk", "shared", "method"])
def test_what_is_not_about_the_values_stops_it_at_once(make_sweep, alice, bob, monkeypatch, what):
    sweep = make_sweep()
    if what == "disk":

        def create(**values):
            raise UserError("The disk is full.", code="disk_full", status=507)

        monkeypatch.setattr(sweeps.advancing, "train_create", create)
    elif what == "shared":
        type(sweep.dataset).objects.update(owner=bob)
    else:
        type(sweep.method).objects.update(overrides={"learning_rate": {"fixed": 1e-4}})

    advance(sweep)
    assert sweep.status == Status.STOPPED
    assert {"disk": "The disk is full", "shared": "no longer shared", "method": "fixed"}[
        what
    ] in sweep.reason
    monkeypatch.undo()


GPU = {"name": "w2", "host": "far", "process": "", "device": {"kind": "cuda", "name": "GPU"}}


def test_what_was_not_chosen_is_the_same_for_all_its_trains(make_sweep, workers):
    """The usual values are others on a GPU, of which there is one meanwhile."""
    sweep = make_sweep()
    advance(sweep)
    workers[:] = [GPU]
    all_trained(sweep, score)
    shared = [
        {name: value for name, value in trial.run.parameters.items() if name != "learning_rate"}
        for trial in trials(sweep)
    ]
    assert len(shared) == 3
    assert shared[0] == shared[1] == shared[2]


@pytest.mark.parametrize("values", [[None, 10], [10, 20]])
def test_max_steps_can_be_swept_beside_usual_epochs(make_sweep, values):
    sweep = make_sweep(space={"max_steps": {"values": values}})
    all_trained(sweep, lambda values, step: 1.0)
    assert sweep.status == Status.SUCCEEDED
    assert [trial.run.parameters["max_steps"] for trial in trials(sweep)] == values
    assert {trial.state for trial in trials(sweep)} == {State.COMPLETE}


def test_alpha_follows_the_rank_of_each_train(make_sweep):
    sweep = make_sweep(space={"lora_rank": {"values": [4, 8]}})
    all_trained(sweep, lambda values, step: 1.0)
    alphas = [trial.run.parameters["lora_alpha"] for trial in trials(sweep)]
    single = make_sweep(space=RATES, parameters={"lora_rank": 8})
    all_trained(single, score)
    assert alphas[1] == trials(single)[0].run.parameters["lora_alpha"]


@pytest.mark.parametrize("is_old", [False, True])
def test_a_new_version_of_its_method_is_not_mixed_with_the_old_one(make_sweep, is_old):
    sweep = make_sweep()
    if is_old:
        Sweep.objects.update(method_version=None)
    advance(sweep)
    method_save(sweep.method, overrides={"weight_decay": {"default": 0.05}})
    run_end(waiting(sweep)[0].run, "stopped")
    advance(sweep)
    if is_old:
        assert (sweep.status, len(trials(sweep))) == (Status.RUNNING, 3)
        return

    assert sweep.status == Status.STOPPED
    assert "was changed: its trains are of version 1" in sweep.reason
    assert TrainRun.objects.count() == 2


@pytest.mark.parametrize(
    ("field", "is_about_it"),
    [
        ("rewards", False),
        ("devices", False),
        ("weight_decay", False),
        ("dataset", False),
        ("learning_rate", True),
        # A rule may name another setting because of one that differs.
        ("target_modules", True),
    ],
)
def test_a_refusal_of_what_all_trains_share_stops_it_at_once(
    make_sweep, monkeypatch, field, is_about_it
):
    sweep = make_sweep(parameters={"weight_decay": 0.1})
    advance(sweep)
    type(sweep.method).objects.update(overrides={"weight_decay": {"maximum": 0.05}})

    def refuse(**values):
        raise UserError({field: ["It is gone."]})

    monkeypatch.setattr(sweeps.advancing, "train_create", refuse)
    run_end(waiting(sweep)[0].run, "stopped")
    advance(sweep)
    assert (trials(sweep)[-1].state == State.FAILED) == is_about_it
    assert sweep.reason == ("" if is_about_it else "Train 3 cannot start: It is gone.")


# People


def test_it_is_paused_stopped_and_continued(make_sweep, alice):
    sweep = make_sweep(space=SPACES["grid"])
    advance(sweep)
    sweep_pause(sweep=sweep, by=alice)
    first, second = waiting(sweep)
    trained(sweep, first, score)
    advance(sweep)
    assert (len(trials(sweep)), sweep.status) == (2, Status.PAUSED)

    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)
    assert len(trials(sweep)) == 3
    run_begin(second.run)

    sweep_stop(sweep=sweep, by=alice)
    advance(sweep)
    assert [trial.run.status for trial in trials(sweep)] == ["finished", "stopping", "stopped"]
    with pytest.raises(UserError, match="still stopping"):
        sweep_continue(sweep=sweep, by=alice)

    run_end(second.run, "stopped")
    advance(sweep)
    before = [(trial.pk, trial.values, trial.run_id) for trial in trials(sweep)]
    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)
    assert [(trial.pk, trial.values, trial.run_id) for trial in trials(sweep)] == before
    assert [trial.run.status for trial in trials(sweep)] == ["finished", "queued", "queued"]
    all_trained(sweep, score)
    assert sweep.status == Status.SUCCEEDED
    assert len({values_key(trial.values) for trial in trials(sweep)}) == 9

    for change in (sweep_pause, sweep_continue):
        with pytest.raises(UserError):
            change(sweep=sweep, by=alice)
    sweep_stop(sweep=sweep, by=alice)
    assert sweep.status == Status.SUCCEEDED
    with pytest.raises(IllegalTransition):
        sweep.transition(Status.RUNNING)


def test_a_combination_without_a_train_is_forgotten_by_a_stop_and_asked_again(
    make_sweep, alice, monkeypatch
):
    sweep = make_sweep()
    advance(sweep)

    def refuse(**values):
        raise UserError("The disk is full.", code="disk_full", status=507)

    real = sweeps.advancing.train_create
    monkeypatch.setattr(sweeps.advancing, "train_create", refuse)
    # The first one has to be made anew, and its number comes before that of the second.
    first = trials(sweep)[0]
    Trial.objects.filter(pk=first.pk).update(run=None, began_at=None)
    advance(sweep)
    assert sweep.status == Status.STOPPED
    assert [trial.number for trial in trials(sweep)] == [2]

    monkeypatch.setattr(sweeps.advancing, "train_create", real)
    sweep_continue(sweep=sweep, by=alice)
    all_trained(sweep, score)
    assert sweep.reason == "Every combination was tried."
    assert [trial.number for trial in trials(sweep)] == [2, 3, 4]
    assert first.values in [trial.values for trial in trials(sweep)]


def test_a_train_that_a_person_stops_is_no_failure_and_no_result(make_sweep, alice):
    sweep = make_sweep()
    advance(sweep)
    for _ in range(3):
        train_stop(run=waiting(sweep)[0].run, by=alice)
        advance(sweep)

    assert [trial.state for trial in trials(sweep)] == [State.STOPPED] * 3
    # Nor has a sweep succeeded of which nothing has.
    assert sweep.status == Status.STOPPED
    assert sweep.reason == "Every combination was tried. None has succeeded."
    assert best_trial(sweep, trials(sweep)) is None


def test_a_pruned_train_that_a_person_resumes_counts_and_is_not_pruned_again(make_sweep):
    sweep = make_sweep(space=SPACES["grid"], pruner="median")
    for value in (1.0, 1.1):
        advance(sweep)
        trained(sweep, waiting(sweep)[0], lambda values, step, value=value: value)
    advance(sweep)
    loser = waiting(sweep)[0]
    trained(sweep, loser, lambda values, step: 9.0)
    advance(sweep)
    loser.refresh_from_db()
    assert loser.state == State.PRUNED

    TrainRun.objects.filter(pk=loser.run.pk).update(status="running", attempt=2)
    report(loser.run, 20, 8.0)
    advance(sweep)
    loser.refresh_from_db()
    assert (loser.state, loser.run.status) == (State.OPEN, "running")
    report(loser.run, 40, 0.5)
    run_end(loser.run)
    advance(sweep)
    loser.refresh_from_db()
    assert (loser.state, loser.value) == (State.COMPLETE, 0.5)


@pytest.mark.parametrize("ended_as", ["stopped", "failed"])
def test_a_train_that_is_resumed_after_the_end_counts_still(make_sweep, ended_as):
    sweep = make_sweep(budget_trains=2)
    advance(sweep)
    first, second = waiting(sweep)
    run_end(first.run, ended_as, error="Memory ran out.")
    trained(sweep, second, lambda values, step: 2.0)
    advance(sweep)
    assert sweep.status == Status.SUCCEEDED
    sweeps_advance()

    run_begin(first.run)
    report(first.run, 40, 0.5)
    run_end(first.run)
    sweeps_advance()
    best = best_trial(sweep, trials(sweep))
    assert (best.pk, best.value, best.state) == (first.pk, 0.5, State.COMPLETE)


def test_continue_leaves_trains_that_have_changed_hands(make_sweep, alice, bob, otto):
    sweep = make_sweep()
    advance(sweep)
    given, own = waiting(sweep)
    sweep_stop(sweep=sweep, by=alice)
    owner_set(given.run, by=otto, owner=bob)
    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)
    rows = {trial.pk: trial for trial in trials(sweep)}
    assert (rows[given.pk].run.status, rows[given.pk].is_halted) == ("stopped", False)
    assert rows[own.pk].run.status == "queued"


def test_continue_keeps_a_result_whose_train_was_deleted(make_sweep, alice):
    sweep = make_sweep()
    advance(sweep)
    first = waiting(sweep)[0]
    run_begin(first.run)
    sweep_stop(sweep=sweep, by=alice)
    report(first.run, 40, 1.5)
    run_end(first.run)
    advance(sweep)
    train_delete(run=TrainRun.objects.get(pk=first.run_id), by=alice)
    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)
    first.refresh_from_db()
    assert (first.state, first.value, first.run, first.is_halted) == (
        State.COMPLETE,
        1.5,
        None,
        False,
    )


def test_a_train_for_which_a_sweep_waits_is_not_deleted(make_sweep, alice):
    first = make_sweep()
    advance(first)
    before = waiting(first)[0].run
    sweep = make_sweep(starts_after=before)
    sweep_stop(sweep=first, by=alice)
    before.refresh_from_db()
    with pytest.raises(UserError, match="A sweep waits until this train has succeeded"):
        train_delete(run=before, by=alice)

    sweep_stop(sweep=sweep, by=alice)
    train_delete(run=before, by=alice)


def test_a_strangers_sweep_that_waits_keeps_no_train_and_is_stopped(make_sweep, alice, bob, toys):
    first = make_sweep()
    advance(first)
    before = waiting(first)[0].run
    Dataset.objects.filter(pk=toys.pk).update(shared=True)
    sweep = make_sweep(owner=bob, starts_after=before)
    advance(sweep)
    begun = [trial.run.pk for trial in waiting(sweep)]
    assert begun
    sweep_stop(sweep=first, by=alice)
    train_delete(run=TrainRun.objects.get(pk=before.pk), by=alice)

    sweep = advance(sweep)
    reason = f"It was waiting for train #{before.pk}, which was deleted."
    assert (sweep.status, sweep.reason) == (Status.STOPPED, reason)
    assert {run.status for run in TrainRun.objects.filter(pk__in=begun)} == {"stopped"}

    # It is Bob's to say that it starts without.
    sweep_continue(sweep=sweep, by=bob)
    assert [trial.run.pk for trial in waiting(sweep)] == begun


@pytest.mark.parametrize("what", ["deleted", "custom"])
def test_hours_of_trains_that_are_made_anew_are_counted(make_sweep, alice, what):
    sweep = make_sweep(budget_hours=2.0)
    advance(sweep)
    first = waiting(sweep)[0]
    run_begin(first.run)
    sweep_stop(sweep=sweep, by=alice)
    run_end(first.run, "stopped", earlier_seconds=4000)
    advance(sweep)
    if what == "deleted":
        train_delete(run=TrainRun.objects.get(pk=first.run_id), by=alice)
    else:
        TrainingMethod.objects.filter(pk=sweep.method.pk).update(recipe="custom")
    sweep_continue(sweep=sweep, by=alice)
    TrainingMethod.objects.filter(pk=sweep.method.pk).update(recipe="sft")
    # It is stopped again before it has another train, and keeps its hours.
    sweep_stop(sweep=sweep, by=alice)
    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)

    first = trials(sweep)[0]
    assert (first.run.status, first.number) == ("queued", 1)
    assert trial_seconds(first) == pytest.approx(4000, abs=60)
    run_begin(first.run)
    report(first.run, 40, 1.0)
    run_end(first.run, earlier_seconds=3400)
    advance(sweep)
    assert sweep.reason == "Its budget of 2 hours is used up."


def test_continue_takes_trains_that_were_resumed_already(make_sweep, alice):
    sweep = make_sweep()
    advance(sweep)
    first, second = waiting(sweep)
    run_begin(first.run)
    sweep_stop(sweep=sweep, by=alice)
    run_end(first.run, "stopped")
    advance(sweep)
    run_begin(first.run)
    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)
    first = next(trial for trial in trials(sweep) if trial.pk == first.pk)
    assert (first.run.status, first.state, first.is_resumed) == ("running", State.OPEN, True)
    second.refresh_from_db()
    assert (second.state, second.is_resumed) == (State.OPEN, False)


def test_a_train_that_a_person_is_stopping_does_not_go_on_with_the_sweep(make_sweep, alice):
    sweep = make_sweep()
    advance(sweep)
    first = waiting(sweep)[0]
    run_begin(first.run)
    train_stop(run=first.run, by=alice)
    sweep_stop(sweep=sweep, by=alice)
    assert [trial.is_halted for trial in trials(sweep)][:2] == [False, True]


def test_a_train_that_cannot_resume_where_it_was_is_not_begun_anew(make_sweep, alice, monkeypatch):
    """With a full disk its checkpoints stay, and the sweep says why it does not go on."""
    sweep = make_sweep()
    advance(sweep)
    sweep_stop(sweep=sweep, by=alice)
    asked: list[int | None] = []

    def resume(*, run, by, step=None):
        asked.append(step)
        raise UserError("The disk is full.", code="disk_full", status=507)

    monkeypatch.setattr(sweeps.services, "train_resume", resume)
    with pytest.raises(UserError, match="cannot continue: The disk is full") as refusal:
        sweep_continue(sweep=sweep, by=alice)

    assert (asked, refusal.value.status) == ([None], 507)
    sweep.refresh_from_db()
    assert sweep.status == Status.STOPPED
    assert all(trial.is_halted for trial in trials(sweep))


def test_a_train_that_was_deleted_leaves_its_result(make_sweep, alice):
    sweep = make_sweep()
    advance(sweep)
    first, second = waiting(sweep)
    trained(sweep, first, score)
    advance(sweep)
    value = trials(sweep)[0].value
    train_delete(run=TrainRun.objects.get(pk=first.run.pk), by=alice)
    train_stop(run=second.run, by=alice)
    train_delete(run=TrainRun.objects.get(pk=second.run.pk), by=alice)
    all_trained(sweep, score)
    first, second, _ = trials(sweep)
    assert (first.run, first.state, first.value) == (None, State.COMPLETE, value)
    assert (second.run, second.state, second.reason) == (
        None,
        State.STOPPED,
        "Its train was deleted.",
    )


def test_trains_change_hands_with_their_sweep(make_sweep, bob, otto):
    sweep = make_sweep()
    advance(sweep)
    type(sweep.dataset).objects.update(shared=True)
    owner_set(sweep, by=otto, owner=bob)
    assert set(TrainRun.objects.values_list("owner", flat=True)) == {bob.pk}
    all_trained(sweep, score)
    assert sweep.status == Status.SUCCEEDED
    assert set(TrainRun.objects.values_list("owner", flat=True)) == {bob.pk}


def test_a_train_that_belongs_to_somebody_else_is_no_longer_its(make_sweep, bob, otto):
    sweep = make_sweep()
    advance(sweep)
    owner_set(waiting(sweep)[0].run, by=otto, owner=bob)
    advance(sweep)
    first = trials(sweep)[0]
    assert (first.state, first.reason) == (
        State.STOPPED,
        "Its train belongs to somebody else now.",
    )
    assert TrainRun.objects.get(pk=first.run_id).status == "queued"


def test_what_it_is_made_of_stays_while_it_runs(make_sweep, alice, toys):
    sweep = make_sweep()
    with pytest.raises(UserError, match="running chain or sweep"):
        dataset_delete(dataset=toys, by=alice)
    with pytest.raises(UserError, match="Stop it first"):
        sweep_delete(sweep=sweep, by=alice)

    sweep_stop(sweep=sweep, by=alice)
    dataset_delete(dataset=toys, by=alice)
    sweep.refresh_from_db()
    assert sweep.dataset is None
    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)
    assert sweep.reason.endswith("Its dataset was deleted.")
    sweep_delete(sweep=sweep, by=alice)
    assert not Sweep.objects.exists()


def test_without_its_evaluation_dataset_it_does_not_go_on(make_sweep, alice, model):
    held_out = dataset_make(alice, "Held", "messages")
    sweep = make_sweep(space={"seed": {"values": [1, 2]}}, evaluation_dataset=held_out)
    sweep_stop(sweep=sweep, by=alice)
    dataset_delete(dataset=held_out, by=alice)
    sweep_continue(sweep=sweep, by=alice)
    advance(sweep)
    assert (sweep.status, TrainRun.objects.count()) == (Status.STOPPED, 0)
    assert sweep.reason.endswith("Its evaluation dataset was deleted.")


def test_starting_anyway_is_for_operators(make_sweep, alice, otto, monkeypatch):
    type(make_sweep(name="other").dataset).objects.update(shared=True)
    Sweep.objects.all().delete()
    given: list[bool] = []
    real = sweeps.advancing.train_create

    def create(**values):
        given.append(values["start_anyway"])
        return real(**values)

    monkeypatch.setattr(sweeps.advancing, "train_create", create)
    sweep = make_sweep(owner=otto, start_anyway=True)
    advance(sweep)
    owner_set(sweep, by=otto, owner=alice)
    run_end(waiting(sweep)[0].run)
    advance(sweep)
    assert given == [True, True, False]
    assert not make_sweep(name="hers", start_anyway=True).start_anyway


# The search


def plan_of(fields: Any, space: dict[str, Any], *, search: str, pruner: str, trains: int) -> Plan:
    return Plan(
        space=space_of(fields, space, {}),
        search=search,
        pruner=pruner,
        percentile=25,
        maximize=False,
        trains=trains,
        seed=1,
    )


@pytest.mark.parametrize("high", [0.2, 1e-9])
def test_a_search_that_learns_finds_others_than_what_it_likes_best(lora_fields, high):
    """Of "none" there is one combination, whatever the dropout: the other values go on. And so do
    those of a range that is narrower than four digits tell."""
    space: dict[str, Any] = {"lora_dropout": {"low": 0.1 - 0.1 * (high > 0.1), "high": 0.1 + high}}
    if high > 0.1:
        space |= {"adapter": {"values": ["lora", "none"]}}

    plan = plan_of(lora_fields, space, search="tpe", pruner="none", trains=24)
    past: list[Past] = []
    for _ in range(24):
        values = values_ask(plan, past)
        assert values is not None
        score = 0.0 if values.get("adapter") == "none" else 1 + values["lora_dropout"]
        past.append(Past(values, "complete", score))

    assert len({values_key(trial.values) for trial in past}) == 24


@pytest.mark.parametrize("complete", [1, 2])
@pytest.mark.parametrize("position", [12, 25])
def test_successive_halving_prunes_nothing_too_early(lora_fields, complete, position):
    """Neither in the first quarter of a train, nor before two others have succeeded."""
    plan = plan_of(lora_fields, RATES, search="grid", pruner="halving", trains=8)
    past: list[Past] = []
    for number in range(3):
        value = 1.0 + number
        past.append(Past({}, "open", reports={position: value}, end=100))
        marks = prune_ask(plan, past, number, position).marks
        past[number] = replace(past[number], marks=marks)

    for number in range(complete):
        past[number] = replace(past[number], state="complete", value=1.0)

    past.append(Past({}, "open", reports={position: 9.0}, end=100))
    decision = prune_ask(plan, past, 3, position)
    assert decision.is_pruned == (complete == 2 and position == 25)


# Whoever is killed in the middle


class Killed(BaseException):
    """In place of SIGKILL: nothing catches it."""


@pytest.mark.django_db(transaction=True)
def test_whoever_is_killed_anywhere_asks_nothing_twice_and_loses_nothing(
    make_sweep, monkeypatch, alice
):
    """The housekeeping is killed at each write in turn, and another one goes on. What comes of it
    is what comes of an undisturbed one."""
    undisturbed = make_sweep(space=SPACES["grid"], pruner="median", budget_trains=6)
    all_trained(undisturbed, score)
    expected = [(each.values, each.state, each.value) for each in trials(undisturbed)]
    TrainRun.objects.all().delete()
    sweep = make_sweep(space=SPACES["grid"], pruner="median", budget_trains=6)

    writes = {"count": 0, "fatal": 0, "kills": 0}
    real = transaction.Atomic.__exit__

    def atomic_exit(self, kind, error, trace):
        if kind is None and writes["fatal"]:
            writes["count"] += 1
            if writes["count"] == writes["fatal"]:
                error = Killed()
                real(self, Killed, error, None)
                raise error

        return real(self, kind, error, trace)

    monkeypatch.setattr(transaction.Atomic, "__exit__", atomic_exit)

    def killed_then_advanced() -> None:
        """At the first transaction, at the second, … until one round is whole."""
        for fatal in range(1, 40):
            writes.update(count=0, fatal=fatal)
            try:
                sweep_advance(sweep.pk)
            except Killed:
                writes["kills"] += 1
                continue
            break
        writes.update(count=0, fatal=0)

    for _ in range(20):
        killed_then_advanced()
        left = waiting(sweep)
        if not left:
            break
        run = left[0].run
        run_begin(run)
        for step in (10, 20, 30, 40):
            report(run, step, score(left[0].values, step))
            killed_then_advanced()
            run.refresh_from_db()
            if run.status == "stopping":
                break
        run_end(run, "stopped" if run.status == "stopping" else "finished")

    killed_then_advanced()
    sweep.refresh_from_db()
    assert sweep.status == Status.SUCCEEDED
    assert [(each.values, each.state, each.value) for each in trials(sweep)] == expected
    assert TrainRun.objects.count() == 6
    assert writes["kills"] > 30


def test_one_that_cannot_go_on_does_not_hold_up_the_others(make_sweep, monkeypatch):
    broken = make_sweep(name="broken")
    whole = make_sweep(name="whole")
    real = sweeps.advancing.train_create

    def create(**values):
        if values["name"].startswith("broken"):
            raise RuntimeError("A bug")
        return real(**values)

    monkeypatch.setattr(sweeps.advancing, "train_create", create)
    sweeps_advance()
    assert [trial.run for trial in trials(broken)] == [None]
    assert len(trials(whole)) == 2


def test_the_same_key_makes_one_sweep(request_of):
    first, created = sweep_start(request_of(), idempotency_key="k")
    again, created_again = sweep_start(request_of(), idempotency_key="k")
    assert (first.pk, created, created_again) == (again.pk, True, False)


def test_importance_needs_enough_trains(make_sweep):
    space = {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "scale": "log"},
        "weight_decay": {"low": 0.0, "high": 0.1},
    }
    sweep = make_sweep(space=space, search="random", budget_trains=16)
    all_trained(sweep, score, most=11)
    assert (len(trials(sweep)), sweep.importance) == (12, {}) or sweep.importance == {}
    all_trained(sweep, score)
    assert set(sweep.importance) == {"learning_rate", "weight_decay"}
    assert sweep.importance["learning_rate"] > sweep.importance["weight_decay"]
    assert sum(sweep.importance.values()) == pytest.approx(1)
