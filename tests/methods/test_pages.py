"""The catalogue and the API of methods."""

from methods.changes import method_retire
from methods.models import TrainingMethod


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
    assert "No longer offered: LoRA" in page
    assert "/trains/new/lora/" not in page


def test_no_method_at_all_is_said(client, alice):
    client.force_login(alice)
    assert "No method is offered" in client.get("/methods/").content.decode()


def test_the_api_lists_methods_with_their_schema(client, alice, lora):
    client.force_login(alice)
    found = client.get("/api/v1/methods/").json()["results"]
    assert [method["slug"] for method in found] == ["lora", "sft", "dpo", "kto", "reward", "grpo", "ppo"]
    assert found[0]["parameters_schema"]["properties"]["learning_rate"]["default"] == 2e-4
    assert found[0]["defaults"]["lora_rank"] == 16
    assert "alpaca" in found[0]["formats"]


def test_the_api_knows_a_method_by_id_and_slug(client, alice, lora):
    client.force_login(alice)
    assert client.get(f"/api/v1/methods/{lora.pk}/").json() == client.get("/api/v1/methods/lora/").json()
    assert client.get("/api/v1/methods/none/").status_code == 404
    assert client.get(f"/api/v1/methods/{'9' * 30}/").status_code == 404


def test_the_api_tells_defaults_by_device(client, alice, lora):
    client.force_login(alice)
    on = {device: client.get(f"/api/v1/methods/lora/?device={device}").json() for device in ("cpu", "cuda")}
    assert on["cpu"]["defaults"]["gradient_accumulation_steps"] == 1
    assert on["cuda"]["defaults"]["gradient_accumulation_steps"] == 8
    refused = client.get("/api/v1/methods/lora/?device=tpu")
    assert refused.status_code == 400
    assert refused.json()["error"]["fields"] == {"device": ["Give cpu or cuda."]}


def test_the_api_leaves_retired_methods_out_of_the_list_only(client, alice, lora):
    method_retire(lora)
    client.force_login(alice)
    assert "lora" not in [method["slug"] for method in client.get("/api/v1/methods/").json()["results"]]
    assert [method["slug"] for method in client.get("/api/v1/methods/?retired=true").json()["results"]] == ["lora"]
    assert client.get("/api/v1/methods/lora/").status_code == 200


def test_nobody_sees_methods_without_a_login(client, lora):
    assert client.get("/methods/").status_code == 302
    assert client.get("/api/v1/methods/").status_code == 401
