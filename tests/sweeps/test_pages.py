"""The form with several values, with and without a script, and the pages of sweeps."""

from __future__ import annotations

import json

import pytest
from bs4 import BeautifulSoup
from django.db import connection
from django.test.utils import CaptureQueriesContext

import training.form.preview
import training.train.services
from methods.changes import method_save
from methods.models import TrainingMethod
from methods.schema import method_fields
from sweeps.models import Sweep, Trial
from tests.sweeps.conftest import advance, all_trained, run_begin, trained, trials, waiting
from tests.sweeps.test_advancing import SPACES, score
from tests.training.test_form import filled
from training.forecast.verdicts import DOES_NOT_FIT, DeviceForecast, Forecast
from training.form.controls import controls_make
from training.models import TrainRun


@pytest.fixture
def caller(client, alice, model, toys):
    client.force_login(alice)
    return client


def page(caller, path: str) -> BeautifulSoup:
    answer = caller.get(path)
    assert answer.status_code == 200, path
    return BeautifulSoup(answer.content.decode(), "html.parser")


def text(caller, path: str) -> str:
    return " ".join(page(caller, path).get_text(" ").split())


RATES = {
    "learning_rate": "1e-4",
    "sweep-learning_rate-mode": "values",
    "sweep-learning_rate": ["2e-4", " ", "5e-4"],
}


def sent_with(**changes):
    """The form with three learning rates, and `changes`."""
    return (
        filled(name="rates", budget_unit="trains", percentile="25", pruner="none") | RATES | changes
    )


def test_several_values_in_the_form_make_a_sweep(caller):
    plan = caller.post("/sweeps/new/lora/plan/", sent_with()).json()
    assert plan["ok"], plan["errors"]
    assert plan["sweep"]["trains"] == 3
    assert plan["sweep"]["button"] == "Run 3 trains"
    assert plan["sweep"]["text"].startswith("3 combinations, one train each")
    assert plan["plan"]["steps"] > 0

    answer = caller.post("/sweeps/new/lora/", sent_with(key="k"))
    sweep = Sweep.objects.get()
    assert answer["Location"] == sweep.get_absolute_url()
    assert sweep.space == {"learning_rate": {"values": [1e-4, 2e-4, 5e-4]}}
    assert (sweep.name, sweep.search, sweep.metric) == ("rates", "grid", "eval_loss")
    assert "learning_rate" not in sweep.parameters
    assert caller.post("/sweeps/new/lora/", sent_with(key="k"))["Location"] == answer["Location"]
    assert not TrainRun.objects.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "3 combinations, one train each; about 1 h 30 m one after the other."),
        (
            {"epochs": "1", "sweep-epochs-mode": "values", "sweep-epochs": ["50"]},
            "6 combinations, one train each.",
        ),
        (
            {"budget": "1", "budget_unit": "hours"},
            "3 combinations, one train each, until they have run for 1 hour in total.",
        ),
        (
            {"budget": "2", "budget_unit": "hours"},
            "3 combinations, one train each, until they have run for 2 hours in total; about 1 h 30 m "
            "one after the other.",
        ),
    ],
    ids=str,
)
def test_the_form_says_how_long_it_takes_where_that_is_known(caller, monkeypatch, changes, said):
    guess = {"seconds": 1800.0, "error": 60.0, "trains": 3, "basis": "3 similar trains"}
    monkeypatch.setattr(training.form.preview, "time_guess", lambda *given: guess)
    plan = caller.post("/sweeps/new/lora/plan/", sent_with(**changes)).json()
    assert plan["errors"] == {}
    assert plan["sweep"]["text"] == said


def too_large(**asked) -> Forecast:
    device = DeviceForecast(
        kind="cpu",
        name="CPU",
        workers=1,
        memory=2**30,
        usable=2**30,
        total=2**34,
        low=2**34,
        high=2**34,
        parts=[],
        moment="",
        verdict=DOES_NOT_FIT,
        basis="computed",
        error=0.1,
    )
    return Forecast(devices=[device])


def test_operators_may_start_it_though_it_does_not_fit(client, caller, otto, toys, monkeypatch):
    monkeypatch.setattr(training.train.services, "forecast_make", too_large)
    plan = caller.post("/sweeps/new/lora/plan/", sent_with(start_anyway="on")).json()
    assert list(plan["errors"]) == ["memory"]
    assert "Will not fit" in plan["forecast_html"]
    assert "start_anyway" not in plan["forecast_html"]

    type(toys).objects.update(shared=True)
    client.force_login(otto)
    plan = client.post("/sweeps/new/lora/plan/", sent_with()).json()
    assert not plan["ok"]
    assert "start_anyway" in plan["forecast_html"]
    assert client.post("/sweeps/new/lora/plan/", sent_with(start_anyway="on")).json()["ok"]
    client.post("/sweeps/new/lora/", sent_with(start_anyway="on"))
    assert Sweep.objects.get().start_anyway


EVERY_KIND = {
    "sweep-lora_rank-mode": "range",
    "sweep-lora_rank-low": "4",
    "sweep-lora_rank-high": "6",
    "sweep-lora_rank-scale": "log",
    "use_dora": "on",
    "sweep-use_dora-mode": "both",
    "scheduler": "cosine",
    "sweep-scheduler-mode": "values",
    "sweep-scheduler": "linear",
    "target_modules": "all-linear",
    "sweep-target_modules-mode": "values",
    "sweep-target_modules": "q_proj, v_proj",
    "warmup_ratio": "0%",
    "sweep-warmup_ratio-mode": "values",
    "sweep-warmup_ratio": "10",
}


def test_every_kind_of_control_can_have_several(caller):
    sent = filled(name="kinds", search="random", budget="5", budget_unit="trains") | EVERY_KIND
    plan = caller.post("/sweeps/new/lora/plan/", sent).json()
    assert plan["errors"] == {}
    assert (plan["sweep"]["combinations"], plan["sweep"]["trains"]) == (48, 5)
    caller.post("/sweeps/new/lora/", sent)
    sweep = Sweep.objects.get()
    assert sweep.space == {
        "lora_rank": {"low": 4, "high": 6, "scale": "log"},
        "use_dora": {"values": [True, False]},
        "scheduler": {"values": ["cosine", "linear"]},
        "target_modules": {"values": ["all-linear", ["q_proj", "v_proj"]]},
        "warmup_ratio": {"values": [0.0, 0.1]},
    }
    all_trained(sweep, lambda values, step: values["lora_rank"])
    assert sweep.status == "succeeded"

    # The copy of the sweep has the same controls, and makes the same sweep.
    form = page(caller, f"/sweeps/new/lora/?sweep={sweep.pk}")
    again = posted(form)
    caller.post("/sweeps/new/lora/", again)
    copy = Sweep.objects.first()
    assert (copy.space, copy.search, copy.budget_trains) == (sweep.space, "random", 5)


def test_a_copy_has_the_defaults_of_its_own_day(caller):
    """But the values that were chosen."""
    caller.post("/sweeps/new/lora/", sent_with(lora_rank="12"))
    sweep = Sweep.objects.get()
    advance(sweep)
    before = waiting(sweep)[0].run.parameters
    method_save(sweep.method, overrides={"weight_decay": {"default": 0.05}})

    form = page(caller, f"/sweeps/new/lora/?sweep={sweep.pk}")
    caller.post("/sweeps/new/lora/", posted(form))
    copy = Sweep.objects.first()
    advance(copy)
    after = waiting(copy)[0].run.parameters
    assert (before["lora_rank"], after["lora_rank"]) == (12, 12)
    assert (before["weight_decay"], after["weight_decay"]) == (0.01, 0.05)


def posted(form: BeautifulSoup) -> dict[str, list[str]]:
    """What a browser without a script would send of the form of a train."""
    sent: dict[str, list[str]] = {}
    for control in form.select("form.train-form :is(input, select, textarea)[name]"):
        if control.name == "select":
            chosen = control.select_one("option[selected]") or control.select_one("option")
            value = chosen["value"] if chosen is not None else ""
        elif control.get("type") in ("checkbox", "radio") and not control.has_attr("checked"):
            continue
        else:
            value = control.text if control.name == "textarea" else control.get("value", "")
        sent.setdefault(control["name"], []).append(value)
    return sent


def test_an_only_value_is_a_train_like_any_other(caller):
    for texts in ([], [""], [" "]):
        sent = sent_with(**{"sweep-learning_rate": texts})
        plan = caller.post("/sweeps/new/lora/plan/", sent).json()
        assert plan["ok"], plan["errors"]
        assert "sweep" not in plan

    answer = caller.post("/sweeps/new/lora/", sent_with(**{"sweep-learning_rate": [""]}))
    run = TrainRun.objects.get()
    assert answer["Location"] == run.get_absolute_url()
    assert run.parameters["learning_rate"] == 1e-4
    assert not Sweep.objects.exists()


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"sweep-learning_rate": ["0.0001"]}, "learning_rate", "1e-4 stands here twice."),
        ({"sweep-learning_rate": ["many"]}, "learning_rate", "must be a number"),
        ({"search": "tpe"}, "budget_trains", "Say how many trains"),
        ({"budget": "some"}, "budget_trains", "at least 1"),
        ({"budget": "some", "budget_unit": "hours"}, "budget_hours", "above 0"),
        ({"metric": "nonsense"}, "metric", "measures"),
        ({"pruner": "percentile", "percentile": "x"}, "percentile", "from 1 to 99"),
        ({"pruner": "median", "evaluation_every": "50"}, "pruner", "at least 4 evaluations"),
    ],
    ids=str,
)
def test_what_is_wrong_stands_beside_its_control(caller, changes, field, words):
    plan = caller.post("/sweeps/new/lora/plan/", sent_with(**changes)).json()
    assert not plan["ok"]
    assert words in plan["errors"][field][0]
    answer = caller.post("/sweeps/new/lora/", sent_with(**changes))
    assert answer.status_code == 400
    html = BeautifulSoup(answer.content.decode(), "html.parser")
    (box,) = html.select(f'[data-messages="{field}"]')
    assert words in box.get_text()
    # What was typed is still there.
    assert html.select_one('[name="sweep-learning_rate"]') is not None
    assert not Sweep.objects.exists()


def test_it_works_without_a_script(caller):
    """Each button of a setting asks the server for one more control."""
    form = page(caller, "/trains/new/lora/")
    button = form.select_one('#field-learning_rate button[name="sweep-add"]')
    assert button["formaction"] == "/sweeps/new/lora/"
    sent = posted(form) | {"sweep-add": ["learning_rate"]}
    answer = caller.post(button["formaction"], sent)
    assert answer.status_code == 200
    form = BeautifulSoup(answer.content.decode(), "html.parser")
    assert form.select_one("form.train-form")["action"] == "/sweeps/new/lora/"
    assert len(form.select('[name="sweep-learning_rate"]')) == 1
    assert form.select_one('[name="sweep-lora_rank-low"]')["value"] == ""

    sent = posted(form) | {"sweep-both": ["use_dora"]}
    sent["sweep-learning_rate"] = ["3e-4"]
    answer = caller.post("/sweeps/new/lora/", sent)
    form = BeautifulSoup(answer.content.decode(), "html.parser")
    assert form.select_one('[name="sweep-learning_rate"]')["value"] == "3e-4"
    assert "Run 4 trains" in form.get_text()
    sent = posted(form) | {"sweep-drop": ["use_dora"]}
    form = BeautifulSoup(caller.post("/sweeps/new/lora/", sent).content.decode(), "html.parser")
    assert "Run 2 trains" in form.get_text()
    caller.post("/sweeps/new/lora/", posted(form))
    assert Sweep.objects.get().budget_trains == 2


def test_a_hidden_setting_has_no_several_values(caller):
    """A setting that is without effect beside the others is hidden, whatever is in its controls."""
    sent = sent_with() | {
        "save_strategy": "end",
        "sweep-save_every-mode": "values",
        "sweep-save_every": "2",
        "sweep-evaluation_every-mode": "values",
        "sweep-evaluation_every": "0.5",
    }
    plan = caller.post("/sweeps/new/lora/plan/", sent).json()
    assert plan["ok"], plan["errors"]
    assert plan["sweep"]["trains"] == 3


def test_a_setting_that_one_of_the_values_needs_is_kept_and_shown(caller, pairs):
    """The first value alone would switch it off."""
    dpo = TrainingMethod.objects.get(slug="dpo")
    controls = controls_make(method_fields(dpo), {}, original=None, modules=[])
    usual = {name: each.text for name, each in controls.items() if each.field.kind == "choice"}
    sent = usual | {
        "name": "adapters",
        "base_model": "tiny",
        "dataset": pairs.pk,
        "adapter": "none",
        "sweep-adapter-mode": "values",
        "sweep-adapter": "lora",
        "lora_rank": "48",
        "use_dora": "on",
    }
    plan = caller.post("/sweeps/new/dpo/plan/", sent).json()
    assert plan["errors"] == {}
    assert plan["sweep"]["trains"] == 2
    caller.post("/sweeps/new/dpo/", sent)
    sweep = Sweep.objects.get()
    assert sweep.parameters["lora_rank"] == 48
    all_trained(sweep, lambda values, step: 1.0)
    given = {run.parameters["adapter"]: run.parameters for run in TrainRun.objects.all()}
    assert (given["lora"]["lora_rank"], given["lora"]["use_dora"]) == (48, True)

    # Shown, without a script and in a copy of the sweep, too.
    answer = caller.post("/sweeps/new/dpo/", sent | {"sweep-add": "learning_rate"})
    copy = caller.get(f"/sweeps/new/dpo/?sweep={sweep.pk}")
    for shown in (answer, copy):
        html = BeautifulSoup(shown.content.decode(), "html.parser")
        assert html.select_one('[name="lora_rank"]')["value"] == "48"
        assert not html.select_one("#field-lora_rank").has_attr("data-inactive")


def test_a_chain_and_a_branch_have_no_sweep(caller, make_sweep):
    form = page(caller, "/trains/new/lora/")
    assert form.select_one("[data-sweep-panel]") is not None
    caller.post("/chains/new/lora/", filled(name="first"))
    stage = page(caller, "/chains/1/stages/1/form/lora/")
    assert stage.select_one("[data-sweep-panel], [data-sweep]") is None


# A sweep


def test_the_page_shows_what_became_of_each_train(caller, make_sweep):
    space = SPACES["grid"] | {"use_dora": {"values": [True, False]}}
    sweep = make_sweep(space=space, pruner="median", budget_trains=6, budget_hours=5.5)
    path = f"/sweeps/{sweep.pk}/"
    assert "The next train is about to join the queue." in text(caller, path)
    assert "Appears once two trains" not in text(caller, path)

    advance(sweep)
    run_begin(waiting(sweep)[0].run)
    assert "2 of 6 trains: 1 train running, 1 waiting." in text(caller, path)
    TrainRun.objects.filter(status="running").update(status="queued")

    all_trained(sweep, score)
    html = page(caller, path)
    rows = html.select("table.trials tbody tr")
    assert len(rows) == 6
    best = html.select_one("tr.is-best")
    value = min(trial.value for trial in trials(sweep) if trial.value is not None)
    assert f"{value:.3f}" in best.get_text()
    lines = html.select(".trial-line")
    assert len(lines) == 6
    assert len(html.select(".trial-line.line-best")) == 1
    assert {len(line.select_one(".seen")["points"].split()) for line in lines} <= {3, 4}
    assert "Too early to tell:" in html.get_text()
    copy = html.select_one(".page-head a.btn-primary")
    best_trial = next(each for each in trials(sweep) if each.value == value)
    assert "Copy the best" in copy.get_text()
    assert copy["href"] == f"/trains/{best_trial.run_id}/copy/"
    form = caller.get(copy["href"], follow=True).content.decode()
    rate = BeautifulSoup(form, "html.parser").select_one("#id-learning_rate")["value"]
    assert float(rate) == best_trial.values["learning_rate"]

    pruned = next(each for each in trials(sweep) if each.state == Trial.State.PRUNED)
    assert pruned.reason in html.get_text()
    assert pruned.reason in text(caller, f"/trains/{pruned.run_id}/")
    assert "train 1 of sweep Rates" in text(caller, f"/trains/{trials(sweep)[0].run_id}/")
    assert "of sweep Rates" in text(caller, "/jobs/")
    part = caller.get(path, headers={"HX-Request": "true"}).content.decode()
    assert part.lstrip().startswith("{#") is False
    assert "<html" not in part
    assert "hx-trigger" not in part


@pytest.mark.parametrize(
    ("changes", "shown", "typed"),
    [
        ({}, "Every combination", ""),
        ({"budget_trains": 2}, "2 trains", "2"),
        ({"budget_hours": 1.0}, "1 hour in total", "1"),
        ({"budget_trains": 2, "budget_hours": 5.5}, "2 trains, 5.5 hours in total", "5.5"),
    ],
    ids=str,
)
def test_the_budget_is_what_was_given(caller, make_sweep, changes, shown, typed):
    sweep = make_sweep(**changes)
    assert f"Budget {shown}" in text(caller, f"/sweeps/{sweep.pk}/")
    form = page(caller, f"/sweeps/new/lora/?sweep={sweep.pk}")
    assert form.select_one("#id-budget")["value"] == typed
    told = caller.get(f"/api/v1/sweeps/{sweep.pk}/").json()
    assert told["budget_trains"] == changes.get("budget_trains")


def test_a_page_asks_no_more_where_nothing_runs(caller, make_sweep):
    """A sweep of before may have kept a combination without a train."""
    sweep = make_sweep()
    Trial.objects.create(sweep=sweep, number=1, values={"learning_rate": 1e-4})
    assert "1 train: 1 not started" in text(caller, f"/sweeps/{sweep.pk}/")
    Sweep.objects.update(status="stopped")
    part = caller.get(f"/sweeps/{sweep.pk}/", headers={"HX-Request": "true"}).content.decode()
    assert "hx-trigger" not in part
    assert "under way" not in part


@pytest.mark.parametrize(
    "changes",
    [
        {"overrides": {"learning_rate": {"fixed": 1e-4}}},
        {"overrides": {"learning_rate": {"maximum": 2e-4}}},
        # What it changes is no setting of this method.
        {"recipe": "custom", "parameters": {"properties": {}}, "program": {}},
        None,
    ],
    ids=str,
)
def test_a_sweep_keeps_its_values_whatever_becomes_of_its_method(caller, make_sweep, changes):
    space = SPACES["random"] | {"scheduler": {"values": ["cosine", "linear"]}}
    sweep = make_sweep(space=space, search="random", budget_trains=3)
    all_trained(sweep, score)
    before = text(caller, f"/sweeps/{sweep.pk}/")
    assert "1e-5 to 0.01, logarithmic" in before
    if changes is None:
        Sweep.objects.update(method=None)
    else:
        type(sweep.method).objects.filter(pk=sweep.method.pk).update(**changes)

    html = page(caller, f"/sweeps/{sweep.pk}/")
    assert len(html.select("table.trials tbody tr")) == 3
    assert len(html.select("table.trials tbody tr:first-child td")) == 6
    assert len(html.select(".trial-line")) == 3
    assert "1e-5 to 0.01, logarithmic" in html.get_text()


def test_who_may_not_see_the_trains_sees_their_results(client, caller, make_sweep, bob):
    sweep = make_sweep()
    all_trained(sweep, score)
    Sweep.objects.update(shared=True)
    client.force_login(bob)
    html = page(client, f"/sweeps/{sweep.pk}/")
    assert html.select("table.trials a") == []
    assert "Copy the best" not in html.get_text()
    assert "1.2" in html.select_one("tr.is-best").get_text()


def test_its_buttons(caller, make_sweep):
    sweep = make_sweep()
    advance(sweep)
    path = f"/sweeps/{sweep.pk}"
    for name, words, status in (
        ("pause", "is paused", "paused"),
        ("continue", "continues", "running"),
        ("stop", "stops", "stopped"),
        ("continue", "continues", "running"),
        ("stop", "stops", "stopped"),
    ):
        answer = caller.post(f"{path}/{name}/", follow=True)
        assert words in answer.content.decode(), name
        advance(sweep)
        assert sweep.status == status
    caller.post(f"{path}/rename/", {"name": "Other"})
    sweep.refresh_from_db()
    assert sweep.name == "Other"
    assert "Give the sweep a name" in caller.post(f"{path}/rename/", follow=True).content.decode()
    assert caller.post(f"{path}/delete/")["Location"] == "/sweeps/"
    assert not Sweep.objects.exists()
    assert TrainRun.objects.count() == 2


def test_the_list_and_the_search_find_it(caller, make_sweep, bob, client):
    assert "Try several values" in text(caller, "/sweeps/")
    sweep = make_sweep()
    all_trained(sweep, score)
    shown = text(caller, "/sweeps/")
    assert "Rates" in shown
    assert "Succeeded" in shown
    assert "No sweep matches" in text(caller, "/sweeps/?status=paused")
    found = caller.get("/api/v1/search/?q=rates").json()
    assert "sweeps" in json.dumps(found)
    client.force_login(bob)
    assert "Rates" not in text(client, "/sweeps/")


@pytest.mark.parametrize("path", ["/sweeps/", "/api/v1/sweeps/"])
def test_lists_read_no_more_of_trains_than_they_say(caller, make_sweep, path):
    for name in ("first", "second"):
        advance(make_sweep(name=name))

    caller.get(path)
    with CaptureQueriesContext(connection) as few:
        caller.get(path)
    assert not [each for each in few.captured_queries if '"facts"' in each["sql"]]
    for name in ("third", "fourth"):
        advance(make_sweep(name=name))
    with CaptureQueriesContext(connection) as more:
        assert caller.get(path).status_code == 200
    assert len(more) <= len(few)


def test_a_few_held_out_rows_are_no_verdict(caller, make_sweep):
    sweep = make_sweep()
    all_trained(sweep, score)
    TrainRun.objects.update(facts={"eval_rows": 8})
    assert "Measured on 8 held-out rows: which train is best may be chance." in text(
        caller, f"/sweeps/{sweep.pk}/"
    )


def test_a_waiting_train_is_named_in_the_queue(caller, make_sweep):
    sweep = make_sweep()
    advance(sweep)
    trained(sweep, waiting(sweep)[0], score)
    assert "train 2 of sweep Rates" in text(caller, "/trains/queue/")


def test_its_trains_run_where_it_was_asked_to(caller, settings):
    refused = caller.post("/sweeps/new/lora/plan/", sent_with(launcher="ray")).json()
    assert "No Ray cluster is set up here" in refused["errors"]["launcher"][0]

    settings.RAY_ADDRESS = "http://ray:8265"
    caller.post("/sweeps/new/lora/", sent_with(launcher="ray"))
    sweep = Sweep.objects.get()
    advance(sweep)
    runs = TrainRun.objects.all()
    assert {run.launcher for run in runs} == {"ray"}
    assert caller.get(f"/api/v1/sweeps/{sweep.pk}/").json()["launcher"] == "ray"

    copy = page(caller, f"/sweeps/new/lora/?sweep={sweep.pk}")
    assert copy.select_one("#id-launcher option[selected]")["value"] == "ray"
