"""The catalogue and the API of methods."""

import pydantic
from django.db import connection
from django.test.utils import CaptureQueriesContext

from methods.changes import method_retire
from methods.models import TrainingMethod
from methods.schema import method_fields
from methods.services import methods_install


def test_the_catalogue_shows_what_each_method_needs(client, alice, lora):
    client.force_login(alice)
    page = client.get("/methods/").content.decode()
    for words in (
        "LoRA",
        "SFT",
        "Which one do I need?",
        "A question and a good answer",
        "Reset my PIN",
        "Chat messages",
    ):
        assert words in page
    assert "/trains/new/lora/" in page
    assert "2e-4" in page


def test_settings_that_a_method_never_uses_are_not_listed(client, alice, sft):
    client.force_login(alice)
    cards = client.get("/methods/").context["cards"]
    names = {card["method"].slug: {field.name for field in card["fields"]} for card in cards}
    assert "lora_rank" in names["lora"]
    assert "lora_rank" not in names["sft"]


def test_a_text_of_an_operator_is_escaped(client, alice, lora):
    TrainingMethod.objects.filter(pk=lora.pk).update(
        description="<script>alert(1)</script>", example_rows=[{"a": "<b>"}]
    )
    client.force_login(alice)
    page = client.get("/methods/").content.decode()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_retired_methods_are_named_and_not_offered(client, alice, lora):
    method_retire(lora)
    client.force_login(alice)
    page = client.get("/methods/").content.decode()
    assert "No longer offered" in page
    assert "LoRA" in page.split("No longer offered")[1]
    assert "/trains/new/lora/" not in page
    assert "/trains/new/lora/" not in page


def test_no_method_at_all_is_said(client, alice):
    client.force_login(alice)
    assert "No method is offered" in client.get("/methods/").content.decode()


def test_the_api_lists_methods_with_their_schema(client, alice, lora):
    client.force_login(alice)
    found = client.get("/api/v1/methods/").json()["results"]
    assert [method["slug"] for method in found] == [
        "lora",
        "sft",
        "dpo",
        "kto",
        "reward",
        "grpo",
        "ppo",
    ]
    assert found[0]["parameters_schema"]["properties"]["learning_rate"]["default"] == 2e-4
    assert found[0]["defaults"]["lora_rank"] == 16
    assert "alpaca" in found[0]["formats"]


def test_the_api_knows_a_method_by_id_and_slug(client, alice, lora):
    client.force_login(alice)
    assert (
        client.get(f"/api/v1/methods/{lora.pk}/").json()
        == client.get("/api/v1/methods/lora/").json()
    )
    assert client.get("/api/v1/methods/none/").status_code == 404
    assert client.get(f"/api/v1/methods/{'9' * 30}/").status_code == 404


def test_the_api_tells_defaults_by_device(client, alice, lora):
    client.force_login(alice)
    on = {
        device: client.get(f"/api/v1/methods/lora/?device={device}").json()
        for device in ("cpu", "cuda")
    }
    assert on["cpu"]["defaults"]["gradient_accumulation_steps"] == 1
    assert on["cuda"]["defaults"]["gradient_accumulation_steps"] == 8
    refused = client.get("/api/v1/methods/lora/?device=tpu")
    assert refused.status_code == 400
    assert refused.json()["error"]["fields"] == {"device": ["Give cpu or cuda."]}


def test_the_api_leaves_retired_methods_out_of_the_list_only(client, alice, lora):
    method_retire(lora)
    client.force_login(alice)
    assert "lora" not in [
        method["slug"] for method in client.get("/api/v1/methods/").json()["results"]
    ]
    assert [
        method["slug"] for method in client.get("/api/v1/methods/?retired=true").json()["results"]
    ] == ["lora"]
    assert client.get("/api/v1/methods/lora/").status_code == 200


def test_nobody_sees_methods_without_a_login(client, lora):
    assert client.get("/methods/").status_code == 302
    assert client.get("/api/v1/methods/").status_code == 401


def test_the_catalogue_asks_the_database_as_often_for_all_methods_as_for_one(client, alice, lora):
    client.force_login(alice)
    client.get("/methods/")
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            client.get("/methods/")
        counts.append(len(queries))
        methods_install()
    assert TrainingMethod.objects.count() > 5
    assert counts[0] == counts[1] <= 8


def test_the_schema_of_a_recipe_is_made_once_and_not_at_every_request(
    client, alice, lora, monkeypatch
):
    """It took nine tenths of the catalogue's time."""
    client.force_login(alice)
    methods_install()
    client.get("/methods/")

    def refuse(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(pydantic.BaseModel, "model_json_schema", classmethod(refuse))
    assert client.get("/methods/").status_code == 200


def test_one_method_does_not_change_the_schema_of_another(lora):
    own = TrainingMethod(
        recipe="sft", overrides={"learning_rate": {"default": 0.5, "maximum": 0.6}}
    )
    assert method_fields(own)["learning_rate"].maximum == 0.6
    assert method_fields(TrainingMethod(recipe="sft"))["learning_rate"].maximum == 1


def test_rewards_stand_first_among_the_settings_of_methods_that_learn_from_them(db):
    methods_install()
    for slug in ("grpo", "ppo"):
        groups = [
            field.group for field in method_fields(TrainingMethod.objects.get(slug=slug)).values()
        ]
        sections = list(dict.fromkeys(group for group in groups if group != "Data"))
        assert sections[0] == "Rewards"
