"""The form by which operators make and change a method."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup
from django.http import QueryDict

from methods.builtin import BUILTIN
from methods.method_form import overrides_of, rows_make, rows_read
from methods.models import TrainingMethod
from methods.services import methods_install
from tests.markup import typed


@pytest.fixture
def methods(db):
    methods_install()
    return {method.slug: method for method in TrainingMethod.objects.all()}


def posted(html: bytes) -> dict[str, str]:
    """What a browser would send of the page as it stands."""
    soup = BeautifulSoup(html, "html.parser")
    form = next(form for form in soup.select("form") if form.select("[name=tagline]"))
    values = {}
    for item in form.select("input[name], textarea[name], select[name]"):
        if item.name == "select":
            option = item.select_one("option[selected]") or item.select_one("option")
            values[item["name"]] = option["value"]
        elif item.name == "textarea":
            values[item["name"]] = typed(item.text)
        else:
            values[item["name"]] = item.get("value", "")
    return values


@pytest.mark.parametrize("slug", [values["slug"] for values in BUILTIN])
def test_saving_a_method_as_it_stands_changes_nothing(client, olga, methods, slug):
    client.force_login(olga)
    data = posted(client.get(f"/methods/{slug}/edit/").content)
    assert client.post(f"/methods/{slug}/edit/", data).status_code == 302
    saved = TrainingMethod.objects.get(slug=slug)
    assert (saved.overrides, saved.version) == (methods[slug].overrides, 1)


CHOSEN = {
    "learning_rate": {"default": 1e-4, "minimum": 1e-6, "maximum": 1e-3},
    "epochs": {"default": 2.5},
    "lr_scheduler": {"default": "linear"},
    "packing": {"fixed": True, "hidden": True},
    "warmup_ratio": {"default": 0.1, "maximum": 0.2},
    "target_modules": {"default": ["q_proj", "v_proj"]},
    "seed": {"hidden": True},
    "batch_size": {"default": 16, "default_on_cpu": 2},
}


def test_every_kind_of_override_is_shown_and_read_back_the_same():
    fields = rows_make("sft", {})
    chosen = {name: value for name, value in CHOSEN.items() if name in fields}
    assert len(chosen) >= 6
    rows = rows_make("sft", chosen)
    data = QueryDict(mutable=True)
    for name, row in rows.items():
        data[f"decides-{name}"] = row.decides
        data[f"value-{name}"] = row.value
        data[f"cpu-{name}"] = row.cpu_value
        data[f"minimum-{name}"] = row.minimum
        data[f"maximum-{name}"] = row.maximum
    assert overrides_of(rows_read("sft", data).values(), chosen) == chosen


def test_an_operator_narrows_a_method_without_json(client, olga, methods):
    client.force_login(olga)
    data = posted(client.get("/methods/lora/edit/").content)
    data |= {
        "value-learning_rate": "1e-4",
        "maximum-learning_rate": "1e-3",
        "decides-packing": "hidden",
    }
    assert client.post("/methods/lora/edit/", data).status_code == 302
    lora = TrainingMethod.objects.get(slug="lora")
    assert lora.overrides["learning_rate"] == {"default": 1e-4, "maximum": 1e-3}
    assert lora.overrides["packing"] == {"hidden": True}
    assert lora.overrides["adapter"] == methods["lora"].overrides["adapter"]
    assert lora.version == 2


def test_a_mistake_is_said_at_its_setting_and_nothing_is_saved(client, olga, methods):
    client.force_login(olga)
    data = posted(client.get("/methods/lora/edit/").content)
    data |= {"maximum-learning_rate": "5", "value-epochs": "many", "name": "Narrow LoRA"}
    response = client.post("/methods/lora/edit/", data)
    assert response.status_code == 400
    page = BeautifulSoup(response.content, "html.parser")
    assert "may only narrow" in page.select_one("#setting-learning_rate .field-error").text
    assert page.select_one("[name=value-epochs]")["value"] == "many"
    assert page.select_one("[name=name]")["value"] == "Narrow LoRA"
    assert TrainingMethod.objects.get(slug="lora").version == 1


def test_a_new_method_with_a_number_for_a_name_is_not_taken_for_an_id(client, olga, methods):
    client.force_login(olga)
    data = posted(client.get("/methods/new/?from=lora").content) | {"name": "2026"}
    assert client.post("/methods/new/", data).status_code == 302
    assert client.get("/api/v1/methods/method-2026/").json()["name"] == "2026"


def test_a_new_method_begins_with_another_one(client, olga, alice, methods):
    client.force_login(olga)
    assert b"?from=lora" in client.get("/methods/new/").content
    data = posted(client.get("/methods/new/?from=lora").content)
    data |= {"name": "Careful LoRA", "value-learning_rate": "5e-5"}
    for _ in range(2):
        assert client.post("/methods/new/", data).status_code == 302
    first, second = TrainingMethod.objects.filter(name="Careful LoRA").order_by("pk")
    assert (first.slug, second.slug) == ("careful-lora", "careful-lora-2")
    assert first.recipe == "sft"
    assert first.overrides == methods["lora"].overrides | {"learning_rate": {"default": 5e-5}}
    client.force_login(alice)
    assert b"Careful LoRA" in client.get("/methods/").content
    assert client.get("/trains/new/careful-lora/").status_code == 200


def test_methods_are_for_operators_to_change(client, alice, methods):
    client.force_login(alice)
    page = client.get("/methods/").content
    assert b"New method" not in page
    assert b"/methods/lora/edit/" not in page
    for path in ("/methods/new/", "/methods/lora/edit/"):
        assert client.get(path).status_code == 403
        assert client.post(path, {}).status_code == 403
    assert client.post("/methods/lora/retire/").status_code == 403
    assert TrainingMethod.objects.get(slug="lora").retired_at is None


def test_a_method_is_retired_and_offered_again_on_the_page(client, olga, methods):
    client.force_login(olga)
    client.post("/methods/lora/retire/")
    assert TrainingMethod.objects.get(slug="lora").retired_at is not None
    assert b"Offer again" in client.get("/methods/").content
    client.post("/methods/lora/retire/", {"restore": "1"})
    assert TrainingMethod.objects.get(slug="lora").retired_at is None
