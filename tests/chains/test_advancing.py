"""How a chain goes on and where it stops: every gate, every way in which a stage can end, every
moment at which its process can be killed."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import transaction

import chains.advancing
import chains.services
from chains.advancing import chain_advance, chains_advance
from chains.models import Chain, Stage
from chains.services import (
    chain_cancel,
    chain_copy,
    chain_create,
    chain_go_on,
    chain_order,
)
from chains.standing import chain_activity
from core.errors import UserError
from core.ownership import owner_set
from datasets_app.models import Dataset
from datasets_app.services import dataset_archive, dataset_delete
from jobs.models import IllegalTransition, Job
from models_app.models import BaseModel
from models_app.services import job_key, model_delete
from models_app.standing import in_use_text
from tests.chains.conftest import (
    advance,
    measure,
    merged,
    model_of,
    run_of,
    stages,
    train_end,
)
from training.models import MetricRow, TrainRun
from training.train.merging import train_merge
from training.train.services import train_create, train_delete, train_stop

Status = Chain.Status


def test_a_chain_goes_from_stage_to_stage(make_chain, model):
    chain = make_chain()
    first = run_of(chain)
    assert (chain.status, first.status, first.name) == (Status.RUNNING, "queued", "first")
    assert (first.base_model, first.owner) == (model, chain.owner)
    assert stages(chain)[1].run is None

    TrainRun.objects.filter(pk=first.pk).update(status="running")
    assert advance(chain).status == Status.RUNNING
    train_end(first)
    assert advance(chain).status == Status.RUNNING
    made = model_of(chain)
    assert (made.status, made.owner, made.trained_from["train"]) == (
        "importing",
        chain.owner,
        first.pk,
    )
    assert made.name == "Support, stage 1"

    merged(chain)
    advance(chain)
    second = run_of(chain, 2)
    assert (second.status, second.method.slug, second.base_model) == ("queued", "dpo", made)

    train_end(second)
    assert advance(chain).status == Status.SUCCEEDED
    assert chain.ended_at is not None
    assert TrainRun.objects.count() == 2
    with pytest.raises(IllegalTransition):
        chain.transition(Status.RUNNING)


GATES = [
    ({"gate": "better"}, (2.0, 1.5), True, 1.5),
    ({"gate": "better"}, (2.0, 2.0), False, 2.0),
    ({"gate": "better"}, (2.0, 2.5), False, 2.5),
    ({"gate": "better"}, (2.0, None), False, None),
    ({"gate": "better"}, (None, 2.0), False, 2.0),
    ({"gate": "at_most", "gate_value": 1.5}, (2.0, 1.5), True, 1.5),
    ({"gate": "at_most", "gate_value": 1.5}, (1.0, 1.6), False, 1.6),
    ({"gate": "at_most", "gate_value": 1.5}, (1.0, None), False, None),
    ({"gate": "at_least", "gate_value": 1.5}, (2.0, 1.5), True, 1.5),
    ({"gate": "at_least", "gate_value": 1.5}, (2.0, 1.4), False, 1.4),
    ({"gate": "finished"}, (1.0, 9.0), True, None),
]


@pytest.mark.parametrize(("gate", "values", "passes", "measured"), GATES, ids=str)
def test_a_gate_lets_pass_what_is_asked_for_and_says_what_it_found(
    make_chain, gate, values, passes, measured
):
    bounded = {"gate_metric": "eval_loss"} if "gate_value" in gate else {}
    chain = make_chain(**gate, **bounded)
    measure(run_of(chain), *values)
    train_end(run_of(chain))
    advance(chain)

    stage = stages(chain)[0]
    assert (stage.passed, stage.measured) == (passes, measured)
    assert (stage.model is not None) == passes
    assert (chain.status == Status.RUNNING) == passes
    if not passes:
        said = "was not measured" if measured is None else f"{measured:g}"
        assert said in chain.reason
        assert "stage 2 starts if the " in chain.reason


def test_a_train_that_keeps_its_best_is_judged_by_it(make_chain):
    chain = make_chain(
        gate="at_most",
        gate_metric="eval_loss",
        gate_value=1.0,
        parameters={"keep_best": True},
    )
    run = run_of(chain)
    measure(run, 2.0, 3.0)
    train_end(run, best_value=0.9, best_step=10)
    advance(chain)
    assert stages(chain)[0].measured == 0.9
    assert chain.status == Status.RUNNING


def test_a_gate_judges_the_checkpoint_that_was_kept_and_no_better_evaluation(make_chain):
    chain = make_chain(
        gate="at_most",
        gate_metric="eval_loss",
        gate_value=1.0,
        parameters={"keep_best": True},
    )
    run = run_of(chain)
    measure(run, 0.5, 0.9, 1.2, 1.5)
    train_end(run, best_value=0.5, best_step=0, outcome={"step": 30, "model_step": 20})
    advance(chain)
    assert stages(chain)[0].measured == 1.2
    assert chain.status == Status.STOPPED


def test_a_closed_gate_can_be_passed_all_the_same(make_chain, alice):
    chain = make_chain(gate="better")
    measure(run_of(chain), 1.0, 2.0)
    train_end(run_of(chain))
    assert advance(chain).status == Status.STOPPED

    chain = chain_go_on(chain=chain, by=alice)
    assert (chain.status, chain.reason) == (Status.RUNNING, "")
    assert stages(chain)[0].gate_waived
    assert model_of(chain).status == "importing"


ENDS = [
    ("failed", {"error": "Memory ran out."}, "failed. Memory ran out."),
    ("stopped", {}, "was stopped"),
]


@pytest.mark.parametrize(("status", "values", "words"), ENDS)
@pytest.mark.parametrize("position", [1, 2])
def test_a_train_that_does_not_finish_stops_its_chain(make_chain, status, values, words, position):
    chain = make_chain()
    if position == 2:
        train_end(run_of(chain))
        advance(chain)
        merged(chain)
        advance(chain)

    train_end(run_of(chain, position), status, **values)
    assert advance(chain).status == Status.STOPPED
    assert chain.reason.startswith(f"Stage {position}: its train, #")
    assert words in chain.reason


def failed(make_chain) -> Chain:
    chain = make_chain()
    train_end(run_of(chain), "failed", error="-")
    return advance(chain)


def test_a_train_that_was_resumed_is_gone_on_with(make_chain, alice):
    chain = failed(make_chain)
    run = run_of(chain)
    TrainRun.objects.filter(pk=run.pk).update(status="queued", attempt=2)
    chain = chain_go_on(chain=chain, by=alice)
    assert (chain.status, run_of(chain).pk) == (Status.RUNNING, run.pk)
    train_end(run)
    advance(chain)
    assert model_of(chain).trained_from["train"] == run.pk


def test_a_train_that_failed_is_started_again(make_chain, alice):
    chain = failed(make_chain)
    before = run_of(chain)
    chain = chain_go_on(chain=chain, by=alice)
    after = run_of(chain)
    assert after.pk != before.pk
    assert (after.name, after.status) == (before.name, "queued")


def test_a_copy_takes_the_place_of_a_train_that_failed(make_chain, alice, bob, toys):
    chain = failed(make_chain)
    run = run_of(chain)
    values = {
        "method": run.method,
        "base_model": run.base_model,
        "dataset": toys,
        "parameters": {},
        "name": "copy",
    }
    copy, _ = train_create(owner=alice, copied_from=run, **values)
    TrainRun.objects.filter(pk=run.pk).update(owner=bob)
    with pytest.raises(UserError, match="somebody else"):
        chain_go_on(chain=chain, by=alice, train=TrainRun.objects.get(pk=run.pk))

    chain = chain_go_on(chain=chain, by=alice, train=copy)
    assert (chain.status, run_of(chain).pk) == (Status.RUNNING, copy.pk)


MERGES = [
    ({"status": "failed", "error": "The disk is full."}, "The disk is full."),
    ({"proof": {"passed": False, "checks": []}}, "not the model that was trained"),
]


@pytest.mark.parametrize(("values", "words"), MERGES)
def test_a_model_that_cannot_be_used_stops_its_chain(make_chain, alice, values, words):
    chain = make_chain()
    train_end(run_of(chain))
    advance(chain)
    merged(chain, **values)
    assert advance(chain).status == Status.STOPPED
    assert words in chain.reason

    chain = chain_go_on(chain=chain, by=alice)
    assert chain.status == Status.RUNNING
    if values.get("status") == "failed":
        assert model_of(chain).status == "importing"
        merged(chain)
        advance(chain)
    assert run_of(chain, 2).status == "queued"


def test_a_model_that_somebody_made_of_the_train_already_is_used(make_chain, alice):
    chain = make_chain()
    run = run_of(chain)
    train_end(run)
    made = train_merge(run=TrainRun.objects.get(pk=run.pk), by=alice, name="Mine")
    advance(chain)
    assert model_of(chain) == made


def test_names_that_exist_are_no_obstacle(make_chain, alice):
    chain = make_chain()
    BaseModel.objects.create(
        owner=alice, name="Support, stage 1", slug="s", source="gguf", reference="-"
    )
    train_end(run_of(chain))
    advance(chain)
    assert chain.status == Status.RUNNING
    assert model_of(chain).status == "importing"


STEPS = ["train_create", "train_merge", "_write", "_take_place"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_is_killed_in_the_middle_leaves_nothing_double(
    make_chain, monkeypatch, step, after
):
    """`step` is the last thing that it does, or the first that it does not do. The next one begins
    where the database stands."""
    chain = make_chain()
    real = getattr(chains.advancing, step)

    class Killed(BaseException):
        pass

    def killed(*arguments, **named):
        if after:
            real(*arguments, **named)
        raise Killed

    for prepare in (lambda: train_end(run_of(chain)), lambda: merged(chain), None):
        if prepare is None:
            break
        prepare()
        with monkeypatch.context() as patched:
            patched.setattr(chains.advancing, step, killed)
            try:
                with transaction.atomic():
                    chain_advance(chain.pk)
            except Killed:
                pass
        advance(chain)

    assert TrainRun.objects.count() == 2
    assert BaseModel.objects.filter(source="train").count() == 1
    assert run_of(chain, 2).base_model == model_of(chain)


def test_one_chain_that_goes_wrong_does_not_hold_up_others(make_chain, draft, alice, monkeypatch):
    wrong, right = make_chain(), chain_order(chain=draft(), by=alice)
    train_end(run_of(wrong))
    train_end(run_of(right))
    real = chains.advancing._merge

    def merge(chain, stage):
        if chain.pk == wrong.pk:
            raise OSError("The disk does not answer.")
        return real(chain, stage)

    monkeypatch.setattr(chains.advancing, "_merge", merge)
    chains_advance()
    assert stages(wrong)[0].model is None
    assert stages(right)[0].model is not None


def test_a_cancelled_chain_stops_its_train_and_starts_no_other(make_chain, alice):
    chain = make_chain()
    chain_cancel(chain=chain, by=alice)
    assert (chain.status, run_of(chain).status) == (Status.CANCELLED, "stopped")
    assert advance(chain).status == Status.CANCELLED
    assert chain_cancel(chain=chain, by=alice).status == Status.CANCELLED
    with pytest.raises(UserError, match="has stopped can continue"):
        chain_go_on(chain=chain, by=alice)


def test_a_person_who_stops_a_train_stops_its_chain(make_chain, alice):
    chain = make_chain()
    train_stop(run=run_of(chain), by=alice)
    assert advance(chain).status == Status.STOPPED


# What a chain stands on


def test_nothing_that_a_running_chain_needs_is_deleted(make_chain, alice, pairs):
    chain = make_chain()
    with pytest.raises(UserError, match="running chain or sweep"):
        dataset_delete(dataset=pairs, by=alice)
    train_end(run_of(chain))
    advance(chain)
    merged(chain)
    with pytest.raises(UserError, match="running chain"):
        train_delete(run=run_of(chain), by=alice)
    model = model_of(chain)
    said = (
        f"A running chain or sweep needs {model.title}. Cancel the chain or stop the sweep first."
    )
    assert in_use_text(model, alice) == said
    with pytest.raises(UserError) as refused:
        model_delete(model=model, by=alice)
    assert (refused.value.code, refused.value.message) == ("in_use", said)

    chain_cancel(chain=chain, by=alice)
    dataset_delete(dataset=pairs, by=alice)
    assert stages(chain)[1].dataset is None
    assert in_use_text(model, alice) == ""


def test_what_became_of_a_stage_s_ingredients_stops_the_chain_with_its_reason(
    make_chain, alice, pairs
):
    chain = make_chain()
    dataset_archive(dataset=pairs, by=alice)
    train_end(run_of(chain))
    advance(chain)
    merged(chain)
    assert advance(chain).status == Status.STOPPED
    assert chain.reason == (
        "Stage 2 cannot start: Pairs is archived. Share or restore it, then continue; or copy the "
        "chain."
    )

    Dataset.objects.update(archived_at=None)
    chain = chain_go_on(chain=chain, by=alice)
    assert run_of(chain, 2).status == "queued"


def test_what_is_no_longer_shared_is_not_trained_on(make_chain, bob, pairs):
    chain = make_chain()
    Dataset.objects.filter(pk=pairs.pk).update(owner=bob)
    train_end(run_of(chain))
    advance(chain)
    merged(chain)
    assert advance(chain).status == Status.STOPPED
    assert "no longer shared. Share or restore it, then continue; or copy the" in chain.reason


def test_a_train_that_was_handed_over_alone_stops_its_chain(make_chain, bob):
    chain = make_chain()
    train_end(run_of(chain))
    TrainRun.objects.update(owner=bob)
    assert advance(chain).status == Status.STOPPED
    assert "belongs to somebody else now" in chain.reason


def test_a_chain_is_handed_over_with_what_it_has_made(make_chain, bob, otto):
    chain = make_chain()
    train_end(run_of(chain))
    advance(chain)
    owner_set(chain, by=otto, owner=bob)
    assert (run_of(chain).owner, model_of(chain).owner) == (bob, bob)
    # Bob may not see the dataset of the second stage.
    merged(chain)
    assert advance(chain).status == Status.STOPPED
    Dataset.objects.update(shared=True)
    chain_go_on(chain=chain, by=bob)
    assert run_of(chain, 2).owner == bob


# The queue


def test_a_stage_goes_before_what_its_owner_started_after_the_chain(make_chain, alice, bob, toys):
    def start(owner: User, name: str) -> TrainRun:
        run = run_of(chain)
        run, _ = train_create(
            owner=owner,
            name=name,
            method=run.method,
            base_model=run.base_model,
            dataset=toys,
            parameters={},
        )
        return run

    chain = make_chain()
    train_end(run_of(chain))
    earlier = start(alice, "earlier")
    hour = timedelta(hours=1)
    TrainRun.objects.filter(pk=earlier.pk).update(created_at=chain.ordered_at - hour)
    start(bob, "bobs")
    start(alice, "later")
    advance(chain)
    merged(chain)
    advance(chain)

    waiting = TrainRun.objects.filter(status="queued").order_by("-priority", "place", "number")
    names = list(waiting.values_list("name", flat=True))
    assert names.index("earlier") < names.index("second") < names.index("later")
    assert names.index("bobs") == 1


def test_a_copy_is_a_draft_of_ones_own(make_chain, bob):
    chain = make_chain(gate="at_most", gate_metric="loss", gate_value=2.0)
    copy = chain_copy(chain=chain, by=bob)
    assert (copy.owner, copy.status, copy.name) == (bob, Status.DRAFT, "Support-copy")
    first, second = stages(copy)
    assert (first.gate, first.gate_metric, first.gate_value) == ("at_most", "loss", 2.0)
    assert first.run is None
    assert second.method == stages(chain)[1].method
    assert Stage.objects.count() == 4


def test_a_stage_waits_while_no_worker_says_what_its_device_can(make_chain, workers):
    chain = make_chain()
    train_end(run_of(chain))
    advance(chain)
    merged(chain)
    here = workers.pop()
    assert advance(chain).status == Status.RUNNING
    assert stages(chain)[1].run is None
    assert "Stage 1 of 2 has finished. The next one waits for a worker." in chain_activity(chain)

    workers.append(here)
    advance(chain)
    assert run_of(chain, 2).status == "queued"


def test_a_first_stage_carries_the_adapter_of_its_base_model_on(make_chain, tuned):
    chain = make_chain(base_model=tuned, start=Stage.Start.ADAPTER)
    run = run_of(chain)
    assert (run.continue_adapter, run.parameters["lora_rank"]) == (True, 8)


def test_a_first_stage_without_an_adapter_to_carry_on_is_refused(make_chain, model):
    with pytest.raises(UserError) as refused:
        make_chain(start=Stage.Start.ADAPTER)
    assert list(refused.value.fields) == ["stages.0.start"]
    assert "not trained here" in refused.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", [1, 2])
def test_a_bound_that_is_no_number_is_not_stored(draft, alice, value, position):
    chain = draft()
    made = stages(chain)
    for stage in made:
        stage.pk = None
    made[position - 1].gate = "at_most"
    made[position - 1].gate_value = value
    with pytest.raises(UserError) as refused:
        chain_create(owner=alice, stages=made)
    name = f"stages.{position - 1}.gate_value"
    assert refused.value.fields == {name: [f"Stage {position}: Give a number."]}
    assert Chain.objects.count() == 1


def test_another_value_of_a_train_that_keeps_its_best_is_that_of_its_best(make_chain):
    metric = "eval_mean_token_accuracy"
    chain = make_chain(
        gate="at_least",
        gate_metric=metric,
        gate_value=0.8,
        parameters={"keep_best": True},
    )
    run = run_of(chain)
    measure(run, 0.5, 0.9, 0.6, metric=metric)
    MetricRow.objects.create(run=run, seq=9, step=10, split="train", time=0, values={metric: 0.1})
    train_end(run, best_value=0.9, best_step=15)
    advance(chain)
    assert stages(chain)[0].measured == 0.9
    assert chain.status == Status.RUNNING


def test_a_chain_is_cancelled_with_its_train_or_not_at_all(make_chain, alice, monkeypatch):
    chain = make_chain()

    def fail(**_):
        raise OSError("The queue is away.")

    monkeypatch.setattr(chains.services, "train_stop", fail)
    with pytest.raises(OSError, match="away"):
        chain_cancel(chain=chain, by=alice)
    chain.refresh_from_db()
    assert (chain.status, run_of(chain).status) == (Status.RUNNING, "queued")


def test_what_belongs_to_a_third_person_is_not_handed_over(make_chain, bob, otto):
    chain = make_chain()
    run = run_of(chain)
    train_end(run)
    advance(chain)
    model = model_of(chain)
    assert Job.objects.get(key=job_key(model)).owner == chain.owner
    TrainRun.objects.filter(pk=run.pk).update(owner=otto)
    owner_set(chain, by=otto, owner=bob)
    assert (run_of(chain).owner, model_of(chain).owner) == (otto, bob)
    assert Job.objects.get(key=job_key(model)).owner == bob


def test_a_chain_of_high_priority_goes_on_with_somebody_who_cannot_give_that(draft, bob, otto):
    Dataset.objects.update(shared=True)
    chain = draft()
    Chain.objects.update(owner=otto, priority=TrainRun.Priority.HIGH)
    chain.refresh_from_db()
    chain = chain_order(chain=chain, by=otto)
    assert run_of(chain).priority == TrainRun.Priority.HIGH
    train_end(run_of(chain))
    advance(chain)
    merged(chain)
    owner_set(chain, by=otto, owner=bob)
    assert advance(chain).status == Status.RUNNING, chain.reason
    assert run_of(chain, 2).priority == TrainRun.Priority.NORMAL


def test_a_train_takes_the_place_of_a_stage_that_could_not_begin(make_chain, alice, pairs, toys):
    chain = make_chain()
    dataset_archive(dataset=pairs, by=alice)
    first = run_of(chain)
    train_end(first)
    advance(chain)
    merged(chain)
    assert advance(chain).status == Status.STOPPED

    values = {"method": first.method, "dataset": toys, "parameters": {}, "name": "instead"}
    wrong, _ = train_create(owner=alice, base_model=first.base_model, **values)
    with pytest.raises(UserError, match="another model"):
        chain_go_on(chain=chain, by=alice, train=wrong)

    right, _ = train_create(owner=alice, base_model=model_of(chain), **values)
    chain = chain_go_on(chain=chain, by=alice, train=right)
    assert (chain.status, run_of(chain), run_of(chain, 2)) == (Status.RUNNING, first, right)
    train_end(right)
    assert advance(chain).status == Status.SUCCEEDED
