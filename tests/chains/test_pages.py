"""The pages of chains: a draft is put together by forms alone, runs, and says where it stands."""

import json

import pytest
from bs4 import BeautifulSoup
from django.contrib.auth.models import Group

import training.train.services
from chains.models import Chain
from chains.services import chain_cancel, chain_copy, chain_order
from methods.models import TrainingMethod
from models_app.models import BaseModel
from tests.chains.conftest import advance, measure, merged, run_of, stages, train_end
from tests.sweeps.test_pages import too_large
from tests.training.test_form import filled
from training.models import TrainRun


@pytest.fixture
def caller(client, alice, model, toys, pairs):
    client.force_login(alice)
    return client


def page(caller, path: str) -> BeautifulSoup:
    answer = caller.get(path)
    assert answer.status_code == 200, path
    return BeautifulSoup(answer.content.decode(), "html.parser")


def text(caller, path: str) -> str:
    return " ".join(page(caller, path).get_text(" ").split())


def test_a_chain_is_made_by_forms_and_run(caller, pairs):
    form = page(caller, "/trains/new/lora/")
    (button,) = form.select("button[formaction][data-run]")
    assert button["formaction"] == "/chains/new/lora/"

    answer = caller.post(button["formaction"], filled(name="first"))
    chain = Chain.objects.get()
    assert answer["Location"] == f"/chains/{chain.pk}/add/"
    assert not TrainRun.objects.exists()

    choice = caller.get(answer["Location"], {"method": "dpo"})
    assert choice["Location"] == f"/chains/{chain.pk}/stages/2/form/dpo/"
    form = page(caller, choice["Location"])
    assert "The result of stage 1, first" in form.get_text(" ")
    (base,) = form.select("input[name=base_model]")
    fields = {
        field["name"]: field.get("value", "")
        for field in form.select("form.train-form input[type=text], input.form-control")
        if field.has_attr("name")
    }
    sent = fields | {"base_model": base["value"], "dataset": pairs.pk, "name": "second"}
    plan = caller.post(f"{choice['Location']}plan/", sent).json()
    assert plan["ok"], plan["errors"]
    assert caller.post(choice["Location"], sent)["Location"] == chain.get_absolute_url()

    caller.post(
        f"/chains/{chain.pk}/stages/1/gate/",
        {"gate": "at_most", "gate_metric": "eval_loss", "gate_value": "1.5"},
    )
    shown = text(caller, f"/chains/{chain.pk}/")
    assert "Stage 2 starts if the eval loss of stage 1 is at most 1.5" in shown

    caller.post(f"/chains/{chain.pk}/run/")
    chain.refresh_from_db()
    assert chain.status == Chain.Status.RUNNING
    assert run_of(chain).status == "queued"
    first, second = stages(chain)
    assert (first.method.slug, second.method.slug) == ("lora", "dpo")
    assert second.parameters["epochs"] == 1


@pytest.mark.parametrize("path", ["/chains/new/lora/", "/chains/{pk}/stages/2/form/lora/"])
def test_what_is_wrong_stands_in_the_form(caller, draft, path):
    chain = draft()
    sent = filled(learning_rate="seven")
    answer = caller.post(path.format(pk=chain.pk), sent)
    assert answer.status_code == 400
    assert 'data-messages="learning_rate"' in answer.content.decode()
    assert Chain.objects.count() == 1
    assert stages(chain)[1].method.slug == "dpo"


def test_the_stages_of_a_draft_are_moved_edited_and_removed(caller, draft, model, toys):
    chain = draft()
    lora = TrainingMethod.objects.get(slug="lora")
    path = f"/chains/{chain.pk}/stages"
    edit = page(caller, f"{path}/1/form/lora/")
    assert edit.select_one("input[name=name]")["value"] == "first"
    assert edit.select_one("select[name=base_model] option[selected]")["value"] == str(model.pk)
    caller.post(f"{path}/1/form/lora/", filled(name="changed"))
    assert [stage.name for stage in stages(chain)] == ["changed", "second"]

    caller.post(f"{path}/1/move/", {"to": "down"})
    first, second = stages(chain)
    assert (first.name, first.base_model, second.base_model) == ("second", model, None)
    caller.post(f"{path}/1/remove/")
    (only,) = stages(chain)
    assert (only.name, only.position, only.base_model, only.method) == ("changed", 1, model, lora)

    refused = caller.post(f"{path}/1/remove/", follow=True)
    assert "its only stage" in refused.content.decode()
    refused = caller.post(f"/chains/{chain.pk}/run/", follow=True)
    assert "A chain has 2 to 20 stages." in refused.content.decode()


def test_a_stage_can_carry_the_adapter_of_the_one_before_on(caller, draft, pairs):
    chain = draft(parameters={"lora_rank": 8})
    path = f"/chains/{chain.pk}/stages/2/form/dpo/"
    form = page(caller, path)
    assert "Rank 8" in form.select_one("#field-continue_adapter").get_text()
    base = form.select_one("input[name=base_model]")["value"]
    sent = {"base_model": base, "dataset": pairs.pk, "continue_adapter": "on", "name": "carried"}
    plan = caller.post(f"{path}plan/", sent).json()
    assert plan["ok"], plan["errors"]
    assert caller.post(path, sent)["Location"] == chain.get_absolute_url()
    second = stages(chain)[1]
    assert (second.start, second.name) == ("adapter", "carried")
    assert "lora_rank" not in second.parameters
    assert "its adapter continued" in text(caller, f"/chains/{chain.pk}/")
    assert page(caller, path).select_one("[name=continue_adapter][value=on]").has_attr("checked")

    caller.post(f"/chains/{chain.pk}/stages/2/move/", {"to": "up"})
    assert [stage.start for stage in stages(chain)] == ["merged", "merged"]


def test_a_draft_says_what_stands_against_each_stage(caller, draft, pairs, alice):
    chain = draft()
    pairs.delete()
    shown = page(caller, f"/chains/{chain.pk}/")
    assert "Choose a dataset" in shown.select_one("#stage-2").get_text()
    assert "notice-red" not in str(shown.select_one("#stage-1"))


def test_a_chain_that_was_ordered_is_no_draft_any_more(caller, make_chain):
    chain = make_chain()
    for path in (f"/chains/{chain.pk}/add/", f"/chains/{chain.pk}/stages/1/form/lora/"):
        assert caller.get(path)["Location"] == chain.get_absolute_url()
    caller.post(f"/chains/{chain.pk}/stages/1/remove/")
    assert len(stages(chain)) == 2


def test_a_chain_that_stopped_says_why_and_goes_on_by_a_button(caller, make_chain):
    chain = make_chain(gate="better")
    assert "hx-get" in str(page(caller, f"/chains/{chain.pk}/").select_one("#chain"))
    measure(run_of(chain), 1.0, 1.75)
    train_end(run_of(chain))
    advance(chain)

    shown = page(caller, f"/chains/{chain.pk}/")
    assert "its eval loss was 1.75, and 1 at its start" in shown.get_text()
    assert "hx-get" not in str(shown.select_one("#chain"))
    (form,) = shown.select(f'form[action="/chains/{chain.pk}/go-on/"]')
    assert "Continue anyway" in form.get_text()
    caller.post(form["action"])
    assert "Its model is being made" in text(caller, f"/chains/{chain.pk}/")
    merged(chain)
    advance(chain)
    assert "Somebody let the chain continue" in text(caller, f"/chains/{chain.pk}/")
    runs = f"{run_of(chain).pk},{run_of(chain, 2).pk}"
    shown = page(caller, f"/chains/{chain.pk}/")
    assert shown.select(f'a[href="/trains/compare/?ids={runs}"]')


def test_a_train_that_failed_offers_a_copy_in_its_place(caller, make_chain, alice):
    chain = make_chain()
    run = run_of(chain)
    train_end(run, "failed", error="-")
    copy = TrainRun.objects.create(
        owner=alice,
        name="a copy",
        method=run.method,
        base_model=run.base_model,
        dataset=run.dataset,
        parameters={},
        copied_from=run,
    )
    advance(chain)
    shown = text(caller, f"/chains/{chain.pk}/")
    assert "Start stage 1 again" in shown
    assert f"Continue with #{copy.pk} a copy" in shown
    caller.post(f"/chains/{chain.pk}/go-on/", {"train": copy.pk})
    assert run_of(chain) == copy


@pytest.mark.parametrize("path", ["/jobs/", "/trains/queue/", "/trains/{run}/"])
def test_pages_of_trains_and_jobs_say_of_which_chain_they_are(
    caller, make_chain, bob, client, path
):
    chain = make_chain()
    path = path.format(run=run_of(chain).pk)
    assert "stage 1 of 2 of chain Support" in text(caller, path)

    TrainRun.objects.update(shared=True)
    client.force_login(bob)
    assert "Support" not in text(client, path)
    Chain.objects.update(shared=True)
    if path != "/jobs/":
        assert "stage 1 of 2 of chain Support" in text(client, path)


def test_the_list_shows_each_chain_with_where_it_is(caller, make_chain, draft, alice):
    assert "Train in stages" in text(caller, "/chains/")
    chain_cancel(chain=make_chain(), by=alice)
    draft()
    shown = page(caller, "/chains/")
    assert len(shown.select("tbody tr")) == 2
    assert len(page(caller, "/chains/?status=draft").select("tbody tr")) == 1
    assert "No chain matches" in text(caller, "/chains/?status=stopped")
    assert page(caller, "/trains/").select('a[href="/chains/"]')


def test_a_chain_is_copied_renamed_and_deleted(caller, make_chain, alice):
    chain = make_chain()
    copy = caller.post(f"/chains/{chain.pk}/copy/")["Location"]
    caller.post(f"{copy}rename/", {"name": "Once more"})
    assert "Once more" in text(caller, copy)
    refused = caller.post(f"/chains/{chain.pk}/delete/", follow=True)
    assert "Cancel it first" in refused.content.decode()
    caller.post(f"{copy}delete/")
    assert list(Chain.objects.all()) == [chain]


def test_the_form_of_a_train_carries_an_adapter_on_in_a_chain_too(caller, tuned, pairs, alice):
    sent = filled(base_model=tuned.pk, continue_adapter="on")
    answer = caller.post("/chains/new/lora/", sent)
    chain = Chain.objects.get()
    assert answer["Location"] == f"/chains/{chain.pk}/add/"
    (first,) = stages(chain)
    assert (first.start, first.base_model) == ("adapter", tuned)
    path = f"/chains/{chain.pk}/stages/1/form/lora/"
    assert page(caller, path).select_one("[name=continue_adapter][value=on]").has_attr("checked")
    shown = page(caller, f"/chains/{chain.pk}/").select_one("#stage-1").get_text(" ")
    assert "its adapter continued" in " ".join(shown.split())

    following = f"/chains/{chain.pk}/stages/2/form/dpo/"
    assert "Rank 8" in page(caller, following).select_one("#field-continue_adapter").get_text()
    caller.post(following, {"base_model": tuned.pk, "dataset": pairs.pk, "continue_adapter": "on"})
    caller.post(f"/chains/{chain.pk}/run/")
    run = run_of(chain)
    assert (run.continue_adapter, run.parameters["lora_rank"]) == (True, 8)


def test_a_form_that_is_sent_twice_makes_one_chain(caller):
    sent = filled(key="once")
    first = caller.post("/chains/new/lora/", sent)
    again = caller.post("/chains/new/lora/", sent)
    assert first["Location"] == again["Location"]
    assert Chain.objects.count() == 1


@pytest.mark.parametrize("value", ["nan", "-inf", "1e999", "much"])
@pytest.mark.parametrize("position", [1, 2])
def test_a_bound_that_is_no_number_is_refused(caller, draft, value, position):
    chain = draft()
    sent = {"gate": "at_most", "gate_metric": "eval_loss", "gate_value": value}
    refused = caller.post(f"/chains/{chain.pk}/stages/{position}/gate/", sent, follow=True)
    assert "Give a number." in refused.content.decode()
    assert stages(chain)[position - 1].gate == "finished"


@pytest.mark.parametrize("position", [0, 4, 99])
def test_the_form_of_a_stage_that_is_not_there_any_more_is_not_found(caller, draft, position):
    path = f"/chains/{draft().pk}/stages/{position}/form/lora/"
    assert caller.get(path).status_code == 404
    assert caller.post(path, filled()).status_code == 404
    assert caller.post(f"{path}plan/", filled()).status_code == 404


def test_what_the_form_does_not_ask_for_stays(caller, draft):
    chain = draft(notes="Ask Bob.", gate="better")
    caller.post(f"/chains/{chain.pk}/stages/1/form/lora/", filled(name="changed"))
    first = stages(chain)[0]
    assert (first.name, first.notes, first.gate) == ("changed", "Ask Bob.", "better")


def test_a_copy_shows_nothing_of_what_its_owner_may_not_see(client, draft, bob, model):
    chain = draft()
    Chain.objects.update(shared=True)
    client.force_login(bob)
    copy = client.post(f"/chains/{chain.pk}/copy/")["Location"]
    shown = page(client, f"{copy}stages/1/form/lora/")
    assert "You cannot see the dataset of the stage." in shown.get_text(" ")
    assert answer_of(shown)["plan"] is None
    assert "Toys" not in str(shown)

    BaseModel.objects.update(shared=False)
    shown = page(client, f"{copy}stages/2/form/dpo/")
    assert "You cannot see the base model of the first stage." in shown.get_text(" ")
    assert answer_of(shown)["plan"] is None


def answer_of(form: BeautifulSoup) -> dict:
    """What the form says of the train when it opens."""
    return json.loads(form.select_one("#form-data").string)["preview"]


def test_a_stage_without_its_method_is_given_another(caller, draft, pairs):
    chain = draft()
    chain.stages.filter(position=2).update(method=None)
    (link,) = page(caller, f"/chains/{chain.pk}/").select("#stage-2 a.btn")
    assert link.get_text(strip=True) == "Change method"
    form = page(caller, link["href"])
    query = {"method": "dpo", "position": form.select_one("[name=position]")["value"]}
    path = caller.get(f"/chains/{chain.pk}/add/", query)["Location"]
    assert path == f"/chains/{chain.pk}/stages/2/form/dpo/"
    form = page(caller, path)
    assert form.select_one("input[name=name]")["value"] == "second"
    assert "Becomes a model when that stage has finished." in form.get_text(" ")


def test_the_page_of_a_model_says_that_a_chain_needs_it(caller, make_chain):
    chain = make_chain()
    train_end(run_of(chain))
    advance(chain)
    model = stages(chain)[0].model
    assert "A running chain or sweep needs" in text(caller, f"/models/{model.pk}/")


def test_a_chain_offers_no_start_of_what_does_not_fit(caller, alice, draft, monkeypatch):
    """Its trains start by themselves."""
    path = f"/chains/{draft().pk}/stages/2/form/lora/plan/"
    alice.groups.add(Group.objects.get(name="Operators"))
    monkeypatch.setattr(training.train.services, "forecast_make", too_large)
    for sent in (filled(), filled(start_anyway="on")):
        plan = caller.post(path, sent).json()
        assert "Will not fit" in plan["forecast_html"]
        assert "start_anyway" not in plan["forecast_html"]
        assert "memory" in plan["errors"]

    assert caller.post("/chains/new/lora/", filled(start_anyway="on")).status_code == 400


def test_a_stage_runs_where_it_was_asked_to(caller, draft, alice, settings):
    chain = draft()
    path = f"/chains/{chain.pk}/stages/1/form/lora/"
    plan = caller.post(f"{path}plan/", filled(launcher="ray")).json()
    assert "No Ray cluster is set up here" in plan["errors"]["launcher"][0]

    settings.RAY_ADDRESS = "http://ray:8265"
    assert caller.post(path, filled(launcher="ray")).status_code == 302
    form = page(caller, path)
    assert form.select_one("#id-launcher option[selected]")["value"] == "ray"
    chain_order(chain=chain, by=alice)
    assert [stage.launcher for stage in stages(chain)] == ["ray", ""]
    assert run_of(chain).launcher == "ray"
    told = caller.get(f"/api/v1/chains/{chain.pk}/").json()["stages"]
    assert [stage["launcher"] for stage in told] == ["ray", ""]

    copy = chain_copy(chain=chain, by=alice)
    assert [stage.launcher for stage in stages(copy)] == ["ray", ""]
