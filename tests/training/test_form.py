"""Start a New Train: what is typed becomes parameters and back, and every refusal stands beside its
field."""

import re
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup
from django.http import QueryDict
from django.utils import timezone

from datasets_app.models import Dataset, TokenLengths
from engine.contract.rundir import read_spec
from methods.models import TrainingMethod
from methods.schema import method_fields
from methods.services import method_defaults, methods_install, parameters_validate
from models_app.models import BaseModel
from tests.markup import markup, typed
from training.form.controls import (
    controls_make,
    groups_make,
    number_text,
    parameters_read,
    same,
    value_text,
)
from training.models import TrainRun
from training.train.services import train_create


@pytest.fixture
def lora(db):
    methods_install()
    return TrainingMethod.objects.get(slug="lora")


@pytest.fixture
def model(db):
    model = BaseModel.objects.create(
        name="Tiny",
        slug="tiny",
        source="gguf",
        reference="tiny.gguf",
        status="ready",
        context_length=2048,
        linear_modules=["q_proj", "v_proj"],
        tokenizer_sha256="1" * 64,
        shared=True,
    )
    model.path.mkdir(parents=True, exist_ok=True)
    return model


@pytest.fixture
def make_dataset(alice):
    def make(name="Toys", **fields):
        values = {
            "owner": alice,
            "name": name,
            "slug": name.lower(),
            "file_name": "x.jsonl",
            "file_type": "jsonl",
            "size_bytes": 3,
            "sha256": name.ljust(64, "0"),
            "status": "ready",
            "format": "messages",
            "row_count": 40,
        }
        dataset = Dataset.objects.create(**values | fields)
        dataset.path.parent.mkdir(parents=True, exist_ok=True)
        dataset.path.write_text("{}\n")
        return dataset

    return make


@pytest.fixture
def page(client, alice, lora, model, make_dataset):
    """Alice before the LoRA form, with a model and a dataset that fit."""
    make_dataset()
    client.force_login(alice)
    return client


def filled(**changes):
    """The form's fields with its defaults, as a browser would send them."""
    method, model = TrainingMethod.objects.get(slug="lora"), BaseModel.objects.get(slug="tiny")
    controls = controls_make(method_fields(method), {}, original=None, modules=[])
    data = {
        name: control.text
        for name, control in controls.items()
        if control.field.kind not in ("bool", "options")
    }
    data |= {
        name: "on"
        for name, control in controls.items()
        if control.field.kind == "bool" and control.value
    }
    dataset = Dataset.objects.get(slug="toys")
    return (
        data
        | {"name": "my train", "base_model": model.pk, "dataset": dataset.pk, "key": "k1"}
        | changes
    )


def beside(response, name):
    """What stands in the message area of a field."""
    area = BeautifulSoup(response.content.decode(), "html.parser").select_one(
        f'[data-messages="{name}"]'
    )
    return area.get_text(" ", strip=True) if area else ""


@pytest.mark.parametrize(
    "number", [2e-4, 1e-05, 1.23456789e-07, 0.05, 0.1 + 0.2, 1.0, 3, 4294967295, 0.0]
)
def test_a_number_in_a_control_is_read_back_as_the_same(number):
    assert float(number_text(number)) == number


def test_every_default_survives_the_way_into_the_form_and_back(page, lora):
    fields = method_fields(lora)
    query = QueryDict(
        urlencode({name: value for name, value in filled().items() if value is not None})
    )

    read = parameters_read(fields, query)

    assert parameters_validate(lora, read) == parameters_validate(lora, {})


@pytest.mark.parametrize("share", [0.05, 0.07, 0.123456789, 0.03, 1 / 3])
def test_shares_are_percent_in_the_form_and_exact_behind_it(lora, share):
    fields = method_fields(lora)
    text = value_text(fields["warmup_ratio"], share)

    assert (
        parameters_read(fields, QueryDict(urlencode({"warmup_ratio": text})))["warmup_ratio"]
        == share
    )


@pytest.mark.parametrize(
    ("name", "typed", "read"),
    [
        ("max_tokens", "1,024", 1024),
        ("max_tokens", " 512 ", 512),
        ("max_tokens", "1e3", 1000),
        ("batch_size", "2.5", 2.5),
        ("warmup_ratio", "3 %", 0.03),
        ("learning_rate", "0,5", "0,5"),
        ("learning_rate", "abc", "abc"),
        ("max_steps", "", None),
        ("batch_size", "", ""),
    ],
)
def test_what_is_typed_is_read_as_meant_or_handed_on_as_it_is(lora, name, typed, read):
    assert parameters_read(method_fields(lora), QueryDict(urlencode({name: typed})))[name] == read


def test_equal_values_are_no_change_however_they_are_written():
    assert same("1.0", "1")
    assert same("0.0002", "2e-4")
    assert not same("", "1")


def test_advanced_fields_are_folded_and_hidden_ones_are_not_there(lora):
    groups = groups_make(controls_make(method_fields(lora), {"seed": 7}, original=None, modules=[]))

    assert groups[-1].folded
    assert groups[-1].changed_count == 1
    assert "adapter" not in {control.field.name for group in groups for control in group.controls}


def test_methods_are_offered_with_the_datasets_that_fit(page, make_dataset):
    make_dataset("Pairs", format="preference")

    html = markup(page.get("/trains/new/"))

    assert "1 of your 2 datasets fits" in html
    assert "SFT" in html


def test_choosing_a_method_goes_on_to_its_form_with_what_was_chosen_before(page):
    response = page.get("/trains/new/?method=sft&dataset=toys")

    assert response.url == "/trains/new/sft/?dataset=toys"


def test_the_form_shows_fields_with_help_and_why_other_datasets_cannot_be_used(page, make_dataset):
    make_dataset("Pairs", format="preference")

    html = markup(page.get("/trains/new/lora/?dataset=toys&base_model=tiny"))

    assert "Capacity of the adapter." in html
    assert "Typical 8 to 64." in html
    assert "LoRA cannot read the format of Pairs" in html
    assert 'value="toys-lora"' in html
    assert "Your train will wait." in html


def test_running_starts_a_train_with_these_values(page, alice):
    response = page.post(
        "/trains/new/lora/", filled(lora_rank="8", warmup_ratio="10", system_prompt="Be brief.")
    )

    run = TrainRun.objects.get()
    assert response.url == f"/trains/{run.pk}/"
    assert (run.owner, run.name, run.system_prompt) == (alice, "my train", "Be brief.")
    assert (run.parameters["lora_rank"], run.parameters["warmup_ratio"]) == (8, 0.1)


def test_a_double_click_starts_one_train(page):
    first = page.post("/trains/new/lora/", filled())
    second = page.post("/trains/new/lora/", filled())

    assert TrainRun.objects.count() == 1
    assert first.url == second.url


@pytest.mark.parametrize(
    ("name", "typed", "says"),
    [
        ("learning_rate", "0", "above 0"),
        ("learning_rate", "-1", "above 0"),
        ("learning_rate", "abc", "must be a number"),
        ("learning_rate", "1e400", "finite"),
        ("epochs", "0", "above 0"),
        ("lora_rank", "0", "at least 1"),
        ("batch_size", "2.5", "whole number"),
        ("batch_size", "64", "Use at most 38"),
        ("batch_size", "", "whole number"),
        ("evaluation_split", "51", "at most 50%"),
        ("base_model", "", "Choose a base model."),
        ("base_model", "999", "does not exist any more"),
        ("dataset", "999", "does not exist any more"),
    ],
)
def test_a_refusal_stands_beside_its_field_and_what_was_typed_stays(page, name, typed, says):
    response = page.post("/trains/new/lora/", filled(**{name: typed, "system_prompt": "kept"}))

    assert response.status_code == 400
    assert says in beside(response, name)
    assert not TrainRun.objects.exists()
    assert "> kept</textarea>" in markup(response)
    if name not in ("base_model", "dataset"):
        assert f'name="{name}" value="{typed}"' in markup(response)


def test_every_error_is_shown_at_once(page):
    response = page.post("/trains/new/lora/", filled(dataset="", learning_rate="0"))

    assert "Choose a dataset." in beside(response, "dataset")
    assert "above 0" in beside(response, "learning_rate")


def test_a_dataset_deleted_a_moment_ago_is_said_beside_the_field(page):
    data = filled()
    Dataset.objects.all().delete()

    assert "does not exist any more" in beside(page.post("/trains/new/lora/", data), "dataset")


def test_a_strangers_dataset_is_not_there(page, bob):
    Dataset.objects.update(owner=bob)

    response = page.post("/trains/new/lora/", filled())

    assert "does not exist any more" in beside(response, "dataset")
    assert "Toys" not in markup(response)


def test_a_field_without_effect_cannot_stop_a_train(page):
    response = page.post("/trains/new/lora/", filled(save_strategy="end", save_every="nonsense"))

    assert response.status_code == 302
    assert TrainRun.objects.get().parameters["save_every"] == 1


def test_chosen_modules_and_further_options_are_read(page, lora):
    query = urlencode(
        {
            "target_modules": "choose",
            "target_modules-names": ["q_proj", "v_proj"],
            "more-name": ["lr_scheduler_kwargs", "", "optim"],
            "more-value": ['{"a": 1}', "", "adamw_torch"],
        },
        doseq=True,
    )

    read = parameters_read(method_fields(lora), QueryDict(query))

    assert read["target_modules"] == ["q_proj", "v_proj"]
    assert read["more"] == {"lr_scheduler_kwargs": {"a": 1}, "optim": "adamw_torch"}


def test_the_plan_answers_while_somebody_types(page):
    answer = page.post(
        "/trains/new/lora/plan/", filled(batch_size="4", gradient_accumulation_steps="2")
    ).json()

    assert answer["ok"]
    assert answer["plan"]["effective_batch"] == 8
    assert answer["plan"]["train_rows"] == 38
    assert answer["plan"]["steps"] == 5
    assert answer["blank"] == {"lora_alpha": "32"}
    assert answer["disk"]["free_bytes"] > 0


def test_the_plan_says_what_the_chat_template_does_to_the_rows(page):
    notes = {
        "rendered": 38,
        "refused": 2,
        "refusals": [[4, "It calls two tools."]],
        "findings": {"thinking_no_place": {"rows": 3, "lines": [2]}},
    }
    TokenLengths.objects.create(
        dataset=Dataset.objects.get(slug="toys"),
        tokenizer="1" * 64,
        ready=True,
        rows={"20": 38},
        prompts={"8": 38},
        longest=[],
        notes=notes,
    )
    answer = page.post("/trains/new/lora/plan/", filled()).json()
    assert answer["ok"]
    assert "2 of 40 rows are left out" in answer["warnings"]["dataset"]
    assert "Line 4: It calls two tools." in answer["warnings"]["dataset"]
    assert "In 3 of 40 rows the thinking is left out" in answer["warnings"]["dataset"]
    assert answer["plan"]["train_rows"] + answer["plan"]["eval_rows"] == 38

    for choice in ("in_front", "leave_out"):
        answer = page.post("/trains/new/lora/plan/", filled(thinking=choice)).json()
        assert "thinking" not in answer["warnings"]["dataset"]


def test_the_plan_offers_fixes_and_says_what_blocks(page):
    answer = page.post("/trains/new/lora/plan/", filled(batch_size="64")).json()

    assert not answer["ok"]
    assert answer["fixes"]["batch_size"][0]["set"] == {"batch_size": 38}


@pytest.mark.parametrize(
    ("chosen", "says"), [([], "at least one"), (["q_proj", "c_attn"], "no layers named c_attn")]
)
def test_layers_that_the_base_model_does_not_have_are_refused(page, chosen, says):
    data = filled(**{"target_modules": "choose", "target_modules-names": chosen})

    answer = page.post("/trains/new/lora/plan/", data).json()

    assert says in answer["errors"]["target_modules"][0]
    assert page.post("/trains/new/lora/", data).status_code == 400


def test_the_plan_tells_every_error_and_starts_nothing(page):
    answer = page.post("/trains/new/lora/plan/", filled(learning_rate="0", epochs="0")).json()

    assert set(answer["errors"]) == {"learning_rate", "epochs"}
    assert answer["plan"] is None
    assert not TrainRun.objects.exists()


@pytest.fixture
def origin(page, alice, lora, model):
    changed = {
        "lora_rank": 8,
        "learning_rate": 1.5e-5,
        "max_steps": 7,
        "epochs": None,
        "warmup_ratio": 0.07,
    }
    return TrainRun.objects.create(
        owner=alice,
        name="first",
        method=lora,
        base_model=model,
        dataset=Dataset.objects.get(),
        system_prompt="Be kind.",
        parameters=parameters_validate(lora, changed),
        defaults=method_defaults(lora),
        status="finished",
    )


def posted_from(html):
    """The fields of a page's form as a browser would send them back."""
    data = {}
    for tag in re.findall(r"<input[^>]*>", html):
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if attributes.get("type") in ("checkbox", "radio") and " checked" not in tag:
            continue
        if "name" in attributes:
            default = "on" if attributes.get("type") == "checkbox" else ""
            data.setdefault(attributes["name"], []).append(attributes.get("value", default))
    for name, more, body in re.findall(
        r'<select[^>]*name="([^"]+)"([^>]*)>(.*?)</select>', html, re.S
    ):
        if " disabled" in more:
            continue
        chosen = re.search(r'value="([^"]*)" selected', body)
        data[name] = [chosen[1] if chosen else re.search(r'value="([^"]*)"', body)[1]]
    for name, body in re.findall(r'<textarea[^>]*name="([^"]+)"[^>]*>(.*?)</textarea>', html, re.S):
        data[name] = [typed(body)]
    data.pop("csrfmiddlewaretoken", None)
    return data


def test_a_copy_of_a_shared_train_does_not_open_what_is_not_shared(client, bob, origin):
    TrainRun.objects.update(shared=True, evaluation_dataset=origin.dataset)
    client.force_login(bob)
    html = markup(client.get(f"/trains/new/lora/?copy={origin.pk}"))
    assert html.count("You cannot see the dataset of the copied train. Choose another.") >= 2
    assert posted_from(html).get("dataset") in (None, [""])
    assert posted_from(html)["base_model"] == [str(origin.base_model.pk)]


def test_a_copy_run_as_it_opens_has_exactly_the_same_values(page, origin):
    form = page.get(f"/trains/{origin.pk}/copy/", follow=True)

    page.post(form.redirect_chain[-1][0], posted_from(form.content.decode()))

    copy = TrainRun.objects.get(copied_from=origin)
    assert copy.parameters == origin.parameters
    assert (copy.base_model, copy.dataset, copy.system_prompt) == (
        origin.base_model,
        origin.dataset,
        "Be kind.",
    )
    assert copy.name == "first-copy"


def test_a_copy_marks_what_was_changed(page, origin):
    data = posted_from(page.get(f"/trains/new/lora/?copy={origin.pk}").content.decode())
    data["lora_rank"] = ["0"]

    html = markup(page.post("/trains/new/lora/", data))

    row = html[html.index('id="field-lora_rank"') : html.index('id="field-lora_alpha"')]
    assert re.search(r"data-was> was <span class=\"strong\">8</span>", row)
    assert (
        "data-was hidden"
        in html[html.index('id="field-learning_rate"') : html.index('id="field-epochs"')]
    )


def test_a_copy_says_what_became_of_its_parts(page, origin):
    TrainingMethod.objects.filter(slug="lora").update(retired_at=timezone.now())
    Dataset.objects.update(archived_at=timezone.now())

    html = markup(page.get(f"/trains/new/lora/?copy={origin.pk}"))
    choice = markup(page.get(f"/trains/new/?copy={origin.pk}"))

    assert "LoRA is no longer offered" in html
    assert "Toys is archived." in html
    assert "is no longer offered" in choice


def test_a_strangers_train_cannot_be_copied(page, origin, bob):
    page.force_login(bob)

    assert page.get(f"/trains/new/lora/?copy={origin.pk}").status_code == 404
    assert page.get("/trains/new/nothing/").status_code == 404


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (
            {"source": "hub", "reference": "Qwen/Qwen3-0.6B@main", "revision": "c1899de"},
            ("Qwen/Qwen3-0.6B", "c1899de"),
        ),
        ({"source": "hub", "reference": "Qwen/Qwen3-0.6B@v1"}, ("Qwen/Qwen3-0.6B", "v1")),
        ({"source": "hub", "reference": "Qwen/Qwen3-0.6B"}, ("Qwen/Qwen3-0.6B", "")),
        ({"source": "folder", "reference": "/models/qwen"}, None),
        ({"source": "gguf", "reference": "tiny.gguf"}, None),
    ],
)
def test_a_train_is_told_where_its_base_model_is_on_the_hub(
    alice, lora, model, make_dataset, fields, wanted
):
    BaseModel.objects.filter(pk=model.pk).update(**fields)
    model.refresh_from_db()
    run, _ = train_create(
        owner=alice,
        name="t",
        method=lora,
        base_model=model,
        dataset=make_dataset(),
        parameters={"max_steps": 1},
    )
    source = read_spec(run.directory).base_model_source
    assert (None if source is None else (source.hub_id, source.revision)) == wanted


@pytest.mark.parametrize(("posted", "kept"), [("-1", -1), ("0", 0), ("", 0), ("7", 0), ("x", 0)])
def test_a_chosen_priority_is_the_trains(page, posted, kept):
    page.post("/trains/new/lora/", filled(priority=posted))
    assert TrainRun.objects.get().priority == kept


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("priority", TrainRun.Priority.HIGH, "Only an operator"),
        ("labels", "x" * 41, "too long"),
        ("after", 999, "does not exist any more"),
    ],
)
def test_what_stands_beside_the_parameters_is_checked_while_somebody_types(page, name, value, says):
    answer = page.post("/trains/new/lora/plan/", filled(**{name: value})).json()
    response = page.post("/trains/new/lora/", filled(**{name: value}))

    assert not answer["ok"]
    assert says in answer["errors"][name][0]
    assert says in beside(response, name)
