"""Try it with the sample: one click from an empty house to a filled form."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup

from datasets_app.models import Dataset
from methods.models import TrainingMethod
from methods.services import method_defaults, methods_install
from models_app.models import BaseModel
from training.models import TrainRun
from training.train.starter_train import PARAMETERS


@pytest.fixture
def house(db) -> BaseModel:
    """What a fresh installation holds: methods and one small base model."""
    methods_install()
    model = BaseModel.objects.create(
        name="SmolLM2-135M-Instruct",
        slug="smollm2",
        source="gguf",
        reference="x",
        status="ready",
        context_length=2048,
        parameter_count=135_000_000,
        linear_modules=["q_proj"],
        tokenizer_sha256="1" * 64,
    )
    if hasattr(model, "shared"):
        BaseModel.objects.update(shared=True)
    model.path.mkdir(parents=True, exist_ok=True)
    return model


@pytest.mark.parametrize("path", ["/trains/", "/datasets/"])
def test_empty_lists_offer_it(client, alice, house, path):
    client.force_login(alice)
    page = BeautifulSoup(client.get(path).content, "html.parser")
    assert (
        page.select_one('form[action="/trains/try-sample/"] button')
        .get_text(strip=True)
        .startswith("Try it")
    )


@pytest.mark.parametrize("path", ["/trains/", "/datasets/"])
def test_it_is_not_offered_where_there_is_no_base_model_to_try(client, alice, db, path):
    methods_install()
    client.force_login(alice)
    assert b"try-sample" not in client.get(path).content
    assert client.post("/trains/try-sample/", {"next": path})["Location"] == path
    assert Dataset.objects.count() == 0


def test_one_click_makes_a_checked_dataset_and_fills_the_form(client, alice, house):
    client.force_login(alice)
    response = client.post("/trains/try-sample/", follow=True)
    dataset = Dataset.objects.get()
    assert (dataset.owner, dataset.status, dataset.row_count, dataset.problem_count) == (
        alice,
        "ready",
        90,
        0,
    )

    page = BeautifulSoup(response.content, "html.parser")
    assert page.select_one("#id-dataset option[selected]")["value"] == str(dataset.pk)
    assert page.select_one("#id-base_model option[selected]")["value"] == str(house.pk)
    assert page.select_one("#id-epochs")["value"] == "2"
    assert page.select_one("#id-learning_rate")["value"] == "0.001"
    assert page.select_one("#id-name")["value"] == "my-first-train"
    assert TrainRun.objects.count() == 0


def test_a_second_click_makes_no_second_dataset_but_every_person_has_one(client, alice, bob, house):
    for user in (alice, alice, bob):
        client.force_login(user)
        client.post("/trains/try-sample/")
    assert sorted(Dataset.objects.values_list("owner__username", flat=True)) == ["alice", "bob"]


def test_the_api_answers_a_body_that_starts_the_train(client, alice, house):
    client.force_login(alice)
    body = client.post("/api/v1/trains/sample/").json()
    assert body["parameters"] == PARAMETERS
    plan = {name: body[name] for name in ("method", "base_model", "dataset", "parameters")}
    assert client.post("/api/v1/trains/plan/", plan, "application/json").json()["errors"] == {}
    started = client.post("/api/v1/trains/", body, "application/json")
    assert started.status_code == 201, started.content
    assert started.json()["name"] == "my-first-train"


def test_its_settings_are_settings_of_the_method(house):
    assert set(PARAMETERS) <= set(method_defaults(TrainingMethod.objects.get(slug="lora")))
