"""A train that carries its base model's adapter on: who may be carried on, what the adapter gives,
and what form, API and record say of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from bs4 import BeautifulSoup
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.errors import UserError
from datasets_app.models import Dataset
from engine.contract.rundir import HubModel, checkpoint_is_whole, checkpoint_seal, read_spec
from methods.models import TrainingMethod
from methods.services import methods_install
from models_app.adapters import adapter_base
from models_app.models import BaseModel
from tests.training.conftest import file_make
from training.form.preview import train_preview
from training.models import TrainRun
from training.pages.compare import comparison
from training.pages.overview import as_json
from training.train.branching import Origin
from training.train.merging import train_merge
from training.train.resuming import _auto_resume_changes, resume_obstacle
from training.train.services import train_create
from training.work.outcome import failure

LAYERS = ["q_proj", "v_proj"]
ADAPTER = {
    "r": 8,
    "lora_alpha": 24,
    "lora_dropout": 0.1,
    "use_rslora": True,
    "use_dora": False,
    "target_modules": ["model.layers.0.q_proj", "model.layers.1.q_proj"],
}
GIVEN = {
    "lora_rank": 8,
    "lora_alpha": 24,
    "lora_dropout": 0.1,
    "use_rslora": True,
    "use_dora": False,
    "target_modules": ["q_proj"],
}


def model_of(parent: BaseModel, name: str, adapter: dict[str, Any] | None, **origin) -> BaseModel:
    """A model that was trained from `parent`, with its adapter where it keeps one."""
    model = BaseModel.objects.create(
        name=name,
        slug=name.lower(),
        source="train",
        status="ready",
        shared=True,
        parent=parent,
        context_length=2048,
        linear_modules=LAYERS,
        tokenizer_sha256="1" * 64,
        trained_from={"train": 1, "step": 0} | origin,
    )
    model.path.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(model.trained_path, ignore_errors=True)

    if adapter is not None:
        model.adapter_path.mkdir(parents=True)
        (model.adapter_path / "adapter_config.json").write_text(json.dumps(adapter))
        (model.adapter_path / "adapter_model.safetensors").write_bytes(b"weights")

    return model


@pytest.fixture
def base(make_train) -> BaseModel:
    """The model that everything was trained from. It is on the hub."""
    methods_install()
    model = BaseModel.objects.get(slug="tiny")
    BaseModel.objects.filter(pk=model.pk).update(
        source="hub",
        reference="org/tiny",
        revision="abc",
        sha256="2" * 64,
        linear_modules=LAYERS,
        tokenizer_sha256="1" * 64,
    )
    model.refresh_from_db()
    model.path.mkdir(parents=True, exist_ok=True)
    for dataset in Dataset.objects.all():
        file_make(dataset)

    return model


@pytest.fixture
def model(base) -> BaseModel:
    return model_of(base, "Tuned", ADAPTER)


@pytest.fixture
def choices(alice, model) -> dict[str, Any]:
    """What Alice chose for a train that carries on."""
    return {
        "owner": alice,
        "method": TrainingMethod.objects.get(slug="lora"),
        "base_model": model,
        "dataset": Dataset.objects.get(slug="toys"),
        "parameters": {},
        "continue_adapter": True,
    }


def start(choices: dict[str, Any], **changes: Any) -> TrainRun:
    run, _ = train_create(name="second", **choices | changes)
    return run


def test_the_adapter_is_taken_along_and_gives_its_parameters(choices, model, base):
    run = start(choices)
    assert run.continue_adapter
    assert run.base_model == model
    assert {name: run.parameters[name] for name in GIVEN} == GIVEN

    spec = read_spec(run.directory)
    assert spec.start_adapter is not None
    assert spec.start_adapter.model_name == "Tuned"
    assert (spec.base_model_path, spec.base_model_name) == (str(base.path), "Tiny")
    assert spec.base_model_sha256 == base.sha256
    assert spec.base_model_source == HubModel("org/tiny", "abc")

    # The train can be repeated when the model is gone.
    shutil.rmtree(model.trained_path)
    folder = run.directory / "start-adapter"
    assert spec.start_adapter.path == str(folder)
    assert checkpoint_is_whole(folder)
    assert json.loads((folder / "adapter_config.json").read_text()) == ADAPTER


def test_a_new_adapter_stands_on_the_merged_weights_as_before(choices, model):
    run = start(choices, continue_adapter=False)
    spec = read_spec(run.directory)
    assert (spec.start_adapter, spec.base_model_path) == (None, str(model.path))
    assert run.parameters["lora_rank"] == 16


def test_the_same_values_may_be_named(choices):
    run = start(choices, parameters=GIVEN | {"lora_alpha": None})
    assert run.parameters["lora_alpha"] == 24


@pytest.mark.parametrize(
    ("adapter", "targets"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, "all-linear"),
        ({"target_modules": ["q_proj", "other"]}, ["q_proj"]),
        ({"target_modules": ["other"]}, "all-linear"),
    ],
)
def test_layers_are_named_as_the_form_names_them(choices, base, adapter, targets):
    other = model_of(base, "Other", ADAPTER | adapter)
    assert start(choices, base_model=other).parameters["target_modules"] == targets


Refusal = Callable[[dict[str, Any], BaseModel, BaseModel], dict[str, Any]]


def named(**values: Any) -> Refusal:
    return lambda choices, base, model: {"parameters": values}


def method(slug: str, **values: Any) -> Refusal:
    def change(choices: dict[str, Any], base: BaseModel, model: BaseModel) -> dict[str, Any]:
        if slug in ("dpo", "reward"):
            choices["dataset"].format = "preference"
            choices["dataset"].save()

        return {"method": TrainingMethod.objects.get(slug=slug), "parameters": values}

    return change


def not_trained(choices, base, model):
    return {"base_model": base}


def trained_whole(choices, base, model):
    return {"base_model": model_of(base, "Whole", None)}


def without_parent(choices, base, model):
    model.parent = None
    model.save()
    return {}


def parent_gone(choices, base, model):
    shutil.rmtree(base.path)
    return {}


def parent_hidden(choices, base, model):
    base.shared = False
    base.save()
    return {}


def damaged(choices, base, model):
    (model.adapter_path / "adapter_config.json").write_text('{"r": 8')
    return {}


REFUSALS: dict[str, tuple[str, str, Refusal]] = {
    "a model that was not trained here": ("continue_adapter", "not trained here", not_trained),
    "a model that was trained whole": ("continue_adapter", "keeps no adapter", trained_whole),
    "a model of nobody knows what": ("continue_adapter", "keeps no adapter", without_parent),
    "the adapter's base without files": ("continue_adapter", "Tiny, whose files", parent_gone),
    "the adapter's base of a stranger": ("continue_adapter", "cannot see", parent_hidden),
    "an adapter that is damaged": ("continue_adapter", "damaged", damaged),
    "a reward model": ("continue_adapter", "head of scores", method("reward")),
    "all weights": ("adapter", "All weights", method("dpo", adapter="none")),
    "a method for all weights": ("continue_adapter", "All weights", method("sft")),
    "another rank": ("lora_rank", "has 8", named(lora_rank=16)),
    "another alpha": ("lora_alpha", "has 24", named(lora_alpha=8)),
    "other dropout": ("lora_dropout", "has 0.1", named(lora_dropout=0.0)),
    "other layers": ("target_modules", "has q_proj", named(target_modules="all-linear")),
    "no rsLoRA": ("use_rslora", "has On", named(use_rslora=False)),
    "DoRA": ("use_dora", "has Off", named(use_dora=True)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_the_form_says_what_the_start_refuses(name, choices, base, model):
    field, text, change = REFUSALS[name]
    choices |= change(choices, base, model)

    preview = train_preview(**choices)
    with pytest.raises(UserError) as refusal:
        start(choices)

    assert list(refusal.value.fields) == [field]
    assert text in refusal.value.fields[field][0]
    assert preview["errors"] == refusal.value.fields
    assert not TrainRun.objects.filter(name="second").exists()


def test_an_adapter_that_was_carried_on_still_belongs_on_the_first_base(choices, base, model):
    second = model_of(model, "Second", ADAPTER, continue_adapter=True)
    third = model_of(second, "Third", ADAPTER, continue_adapter=True)
    fourth = model_of(third, "Fourth", ADAPTER)
    found = [adapter_base(row) for row in (base, model, second, third, fourth)]
    assert found == [None, base, base, base, third]

    spec = read_spec(start(choices, base_model=third).directory)
    assert spec.base_model_path == str(base.path)


def test_a_model_that_is_made_of_it_remembers(choices, alice):
    run = start(choices)
    TrainRun.objects.filter(pk=run.pk).update(status="finished")
    run.refresh_from_db()
    (run.directory / "model").mkdir()
    made = train_merge(run=run, by=alice)
    assert made.trained_from["continue_adapter"] is True
    assert made.parent == choices["base_model"]


def test_a_train_whose_files_are_gone_is_not_resumed(choices, base):
    run = start(choices)
    TrainRun.objects.filter(pk=run.pk).update(status="stopped")
    run.refresh_from_db()
    shutil.rmtree(choices["base_model"].path)
    assert resume_obstacle(run) == ""
    shutil.rmtree(base.path)
    assert resume_obstacle(run) == "The files of Tiny are gone."


def test_a_branch_carries_on_where_its_train_did(choices):
    run = start(choices)
    checkpoint = run.directory / "checkpoints" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(b"weights")
    checkpoint_seal(checkpoint)
    choices["branch"] = Origin(run, 4)

    branched = read_spec(start(choices).directory)
    assert branched.branch is not None
    assert branched.start_adapter is not None

    with pytest.raises(UserError) as refusal:
        start(choices, continue_adapter=False, parameters=GIVEN)
    assert list(refusal.value.fields) == ["continue_adapter"]


BODY = {"method": "lora", "base_model": "tuned", "dataset": "toys", "continue_adapter": True}


@pytest.fixture
def api(client, alice, model):
    client.force_login(alice)

    def post(path: str, **body: Any):
        return client.post(f"/api/v1/trains/{path}", body, content_type="application/json")

    return post


def test_the_api_starts_plans_and_copies_it(api, base):
    started = api("", **BODY)
    assert started.status_code == 201, started.content
    train = started.json()
    assert (train["continue_adapter"], train["parameters"]["lora_rank"]) == (True, 8)

    refused = api("", **BODY, parameters={"lora_rank": 4})
    assert list(refused.json()["error"]["fields"]) == ["parameters.lora_rank"]
    refused = api("", **BODY | {"base_model": "tiny"})
    assert list(refused.json()["error"]["fields"]) == ["continue_adapter"]

    assert api("plan/", **BODY).json()["ok"]
    assert list(api("plan/", **BODY | {"base_model": "tiny"}).json()["errors"]) == [
        "continue_adapter"
    ]

    # Of another model another adapter.
    model_of(base, "Other", ADAPTER | {"r": 2})
    path = f"{train['id']}/copy/"
    assert api(path).json()["continue_adapter"]
    assert api(path, base_model="other").json()["parameters"]["lora_rank"] == 2
    renewed = api(path, continue_adapter=False).json()
    assert (renewed["continue_adapter"], renewed["parameters"]["lora_rank"]) == (False, 8)


def test_what_the_overview_gives_to_copy_starts_it_again(api, choices):
    body = json.loads(as_json(start(choices)))
    assert body["continue_adapter"]
    assert api("", **body).status_code == 201


def form(client, **query: Any) -> BeautifulSoup:
    page = client.get("/trains/new/lora/", query)
    assert page.status_code == 200
    return BeautifulSoup(page.content, "html.parser")


def test_the_form_offers_it_where_there_is_an_adapter(client, alice, base, model):
    client.force_login(alice)
    offered = form(client, base_model="tuned").select_one("#field-continue_adapter")
    assert offered is not None
    assert not offered.has_attr("hidden")
    assert "Rank 8, Alpha 24, Dropout 0.1, rsLoRA, Target modules q_proj" in offered.text
    assert [box["value"] for box in offered.select("input[checked]")] == [""]

    hidden = form(client, base_model="tiny").select_one("#field-continue_adapter")
    assert hidden is not None
    assert hidden.has_attr("hidden")

    answer = client.get("/trains/new/reward/", {"base_model": "tuned"})
    assert "field-continue_adapter" not in answer.content.decode()


def test_the_form_asks_for_nothing_that_the_adapter_gives(client, alice, model, base):
    """Without a script the fields stand there all the same, with the method's defaults."""
    client.force_login(alice)
    posted = {
        "name": "by hand",
        "base_model": str(model.pk),
        "dataset": str(Dataset.objects.get(slug="toys").pk),
        "continue_adapter": "on",
        "lora_rank": "16",
        "target_modules": "all-linear",
    }
    answer = client.post("/trains/new/lora/", posted)
    run = TrainRun.objects.get(name="by hand")
    assert (answer.status_code, run.continue_adapter, run.parameters["lora_rank"]) == (302, True, 8)

    refused = client.post("/trains/new/lora/", posted | {"base_model": str(base.pk)})
    field = BeautifulSoup(refused.content, "html.parser").select_one("#field-continue_adapter")
    assert refused.status_code == 400
    assert field is not None
    assert not field.has_attr("hidden")
    assert "not trained here" in field.text

    copied = form(client, copy=run.pk)
    chosen = copied.select("[name=continue_adapter][checked]")
    assert [box["value"] for box in chosen] == ["on"]
    rank = copied.select_one("#field-lora_rank")
    assert rank is not None
    assert rank.has_attr("data-inactive")


def test_it_is_told_in_lineage_and_compared(client, alice, choices):
    client.force_login(alice)
    carried = start(choices)
    fresh = start(choices, continue_adapter=False, parameters=GIVEN)
    page = client.get(carried.get_absolute_url()).content.decode()
    assert "its adapter is continued" in page
    assert "its adapter is continued" not in client.get(fresh.get_absolute_url()).content.decode()

    differences = comparison([carried, fresh])["differences"]
    assert differences == {"continue_adapter": {str(carried.pk): True, str(fresh.pk): False}}


def test_the_form_asks_the_database_as_often_for_many_models_as_for_one(client, alice, base, model):
    """Each further one carries the adapter on of a model that is archived."""
    client.force_login(alice)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            page = form(client, base_model="tuned")
        models = json.loads(page.select_one("#form-data").string)["models"]
        adapters = [facts["adapter"] for facts in models.values()]
        assert adapters.count("") == 1
        return len(captured)

    def add(name: str) -> None:
        between = model_of(model, f"{name}-before", ADAPTER, continue_adapter=True)
        BaseModel.objects.filter(pk=between.pk).update(archived_at=timezone.now())
        model_of(between, name, ADAPTER, continue_adapter=True)

    add("One")
    # What is asked for once only.
    queries()
    before = queries()
    for name in ("Two", "Three", "Four"):
        add(name)
    assert queries() == before


def test_an_adapter_that_was_replaced_is_read_again(client, alice, model):
    client.force_login(alice)
    assert "Rank 8" in form(client, base_model="tuned").select_one("[data-adapter]").text
    config = model.adapter_path / "adapter_config.json"
    config.write_text(json.dumps(ADAPTER | {"r": 2}))
    os.utime(config, ns=(1, 1))
    assert "Rank 2" in form(client, base_model="tuned").select_one("[data-adapter]").text


def test_a_train_resumes_by_itself_by_the_files_that_it_loads(choices, model, base):
    run = start(choices)
    shutil.rmtree(model.path)
    lost = failure("worker_lost", "The worker is lost.", "")
    assert _auto_resume_changes(run, lost, lambda: None) == {"resumes": 1}
    shutil.rmtree(base.path)
    assert _auto_resume_changes(run, lost, lambda: None) is None
