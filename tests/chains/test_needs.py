"""What a chain that runs needs can neither go nor be archived by mistake; and chains are found by
the search over everything."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup

from chains.models import Chain, Stage
from core.errors import UserError
from jobs.models import Job
from methods.models import TrainingMethod
from tests.chains.conftest import advance, run_of, stages, train_end
from training.models import TrainRun
from training.train.needed import needed_text
from training.train.services import train_delete


def page(client, path: str) -> BeautifulSoup:
    answer = client.get(path)
    assert answer.status_code == 200
    return BeautifulSoup(answer.content, "html.parser")


@pytest.fixture
def caller(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def scorer(alice, model, pairs) -> TrainRun:
    """A trained reward model."""
    method = TrainingMethod.objects.get(slug="reward")
    run = TrainRun.objects.create(
        owner=alice, name="judge", method=method, base_model=model, dataset=pairs, parameters={}
    )
    train_end(run)
    run.refresh_from_db()
    return run


def scored_by(run: TrainRun) -> dict:
    return {
        "rewards": [
            {"function": "length", "weight": 1.0, "parameters": {}},
            {"function": "reward_model", "weight": 1.0, "parameters": {"model": run.pk}},
        ]
    }


def test_a_reward_model_of_a_stage_to_come_stays(caller, make_chain, scorer, alice):
    """Named by the parameters of the last stage alone."""
    chain = make_chain()
    stage = stages(chain)[1]
    Stage.objects.filter(pk=stage.pk).update(parameters=scored_by(scorer))
    with pytest.raises(UserError, match="A running chain needs this train"):
        train_delete(run=scorer, by=alice)

    dialog = page(caller, f"/trains/{scorer.pk}/").select_one("#delete-dialog")
    assert "Cancel the chain first." in dialog.get_text(" ")
    assert dialog.select_one("form") is None
    assert TrainRun.objects.filter(pk=scorer.pk).exists()

    Chain.objects.filter(pk=chain.pk).update(status=Chain.Status.CANCELLED)
    train_delete(run=scorer, by=alice)
    assert not TrainRun.objects.filter(pk=scorer.pk).exists()


def test_no_longer_once_that_stage_has_ended(make_chain, scorer, alice):
    chain = make_chain()
    run = run_of(chain)
    Stage.objects.filter(chain=chain, position=1).update(parameters=scored_by(scorer))
    assert needed_text(scorer, alice)
    train_end(run)
    assert needed_text(scorer, alice) == ""


def test_a_train_for_which_its_first_stage_is_to_wait_stays(make_chain, scorer, alice):
    chain = make_chain()
    Chain.objects.filter(pk=chain.pk).update(starts_after=scorer)
    Stage.objects.filter(chain=chain, position=1).update(run=None, began_at=None)
    assert needed_text(scorer, alice) == ""

    TrainRun.objects.filter(pk=scorer.pk).update(status="failed")
    scorer.refresh_from_db()
    assert "A chain waits until this train has succeeded" in needed_text(scorer, alice)
    Chain.objects.filter(pk=chain.pk).update(status="stopped")
    assert needed_text(scorer, alice) == ""


@pytest.mark.parametrize("has_begun", [True, False])
def test_the_chain_of_a_stranger_that_waits_keeps_no_train_and_is_stopped(
    make_chain, scorer, alice, bob, has_begun
):
    TrainRun.objects.filter(pk=scorer.pk).update(status="running", shared=True)
    chain = make_chain()
    run = run_of(chain)
    chains = Chain.objects.filter(pk=chain.pk)
    chains.update(owner=bob, starts_after=scorer)
    if has_begun:
        Job.objects.filter(pk=run.number).update(owner=bob, starts_after=scorer.number)
    else:
        Stage.objects.filter(run=run).update(run=None, began_at=None)
        Job.objects.filter(pk=run.number).update(status="stopped")

    TrainRun.objects.filter(pk=scorer.pk).update(status="failed")
    scorer.refresh_from_db()
    train_delete(run=scorer, by=alice)
    chain = advance(chain)
    reason = f"It was waiting for train #{scorer.pk}, which was deleted."
    assert (chain.status, chain.reason) == ("stopped", reason)
    assert not TrainRun.objects.exclude(pk=scorer.pk).exclude(status="stopped").exists()


@pytest.mark.parametrize("rewards", [None, "judge", [7], [{"function": "reward_model"}]])
def test_odd_parameters_name_none(make_chain, scorer, alice, rewards):
    Stage.objects.filter(chain=make_chain()).update(parameters={"rewards": rewards})
    assert needed_text(scorer, alice) == ""


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_train_that_has_not_ended_needs_it_too(make_chain, scorer, alice, status):
    run = run_of(make_chain())
    TrainRun.objects.filter(pk=run.pk).update(status=status, parameters=scored_by(scorer))
    assert "waiting or running with rewards from this one" in needed_text(scorer, alice)
    TrainRun.objects.filter(pk=run.pk).update(status="failed")
    assert needed_text(scorer, alice) == ""


def test_a_train_of_a_chain_that_runs_says_so_before(caller, make_chain):
    run = run_of(make_chain())
    train_end(run)
    dialog = page(caller, f"/trains/{run.pk}/").select_one("#delete-dialog")
    assert "Cancel the chain first." in dialog.get_text(" ")


def test_a_model_of_a_chain_that_runs_is_not_to_be_archived(caller, make_chain, model):
    """Neither the one that it has made, nor the one that it began with, on which a train stands for
    good."""
    chain = make_chain()
    train_end(run_of(chain))
    advance(chain)
    made = stages(chain)[0].model

    for needed in (made, model):
        needed.owner = chain.owner
        needed.save()
        dialog = page(caller, f"/models/{needed.pk}/").select_one("#delete-dialog")
        assert "Cancel the chain or stop the sweep first." in dialog.get_text(" ")
        assert dialog.select_one("form") is None

    Chain.objects.filter(pk=chain.pk).update(status=Chain.Status.CANCELLED)
    dialog = page(caller, f"/models/{model.pk}/").select_one("#delete-dialog")
    assert "Archive it" in dialog.get_text(" ")


def found(client, text: str) -> list[tuple[str, str, str]]:
    groups = client.get("/api/v1/search/", {"q": text}).json()
    return [
        (hit["title"], hit["note"], hit["url"])
        for group in groups
        if group["kind"] == "chains"
        for hit in group["hits"]
    ]


def test_the_search_finds_chains(caller, make_chain, client, bob):
    chain = make_chain()
    wanted = [("Support", "2 stages · Running", f"/chains/{chain.pk}/")]
    assert found(caller, "supp") == wanted
    assert found(caller, "nothing") == []
    client.force_login(bob)
    assert found(client, "supp") == []
