"""Trained models as trees, and what a model's page tells of where it is from."""

import json

import pytest
from django.db import transaction

from models_app.models import BaseModel
from models_app.tree import Node, nodes
from models_app.versions import version_set


@pytest.fixture
def make_trained(make_model, alice):
    """A trained model of Alice's; the passport that its merge left."""

    def make(parent, **fields):
        origin = {
            "train": 4711,
            "name": "secret train",
            "method": "LoRA",
            "step": 20,
            "precision": "auto",
            "base_model": {"id": parent.pk, "name": parent.name},
            "datasets": {"training": {"id": 1, "title": "secret data", "licence": "cc0-1.0"}},
        }
        values = {"source": "train", "owner": alice, "version": "1", "trained_from": origin}
        model = make_model(**values | {"parent": parent} | fields)
        measures = {
            "metric": "eval_loss",
            "first": {"step": 0, "value": 2.5},
            "last": {"step": 20, "value": 1.25},
        }
        passport = {
            "train": {"id": 4711, "name": "secret train", "method": "lora", "recipe": "sft"},
            "base_model": {"name": parent.name, "sha256": "0" * 64},
            "system_prompt": "secret prompt",
            "parameters": {"lora_rank": 8, "judge_prompt": "secret question"},
            "code": {"deepextension": "1", "resources": {"rewards.0": {"name": "secret judge"}}},
            "command": "python -m engine.merging RUN OUT",
            "files": {"model.safetensors": {"bytes": 3, "sha256": "1" * 64}},
            "measures": {"evaluation": measures},
        }
        model.path.mkdir(parents=True)
        (model.path / "passport.json").write_text(json.dumps(passport))
        return model

    return make


def test_each_stands_below_what_it_was_trained_from():
    rows = [
        (10, 1, "Beta"),
        (11, 10, "zeta"),
        (12, 10, "alpha"),
        (13, 12, "deep"),
        (14, 2, "of the other base"),
        (15, None, "of nothing"),
        (16, 99, "of a hidden one"),
        (17, 1, "Alpha"),
    ]
    assert nodes(rows, {1: "Second", 2: "First"}) == [
        Node(14, 2, 0),
        Node(17, 1, 0),
        Node(10, 1, 0),
        Node(12, 1, 1),
        Node(13, 1, 2),
        Node(11, 1, 1),
        Node(16, 99, 0),
        Node(15, None, 0),
    ]


def test_a_long_chain_is_no_recursion_and_a_circle_shows_nothing_twice():
    chain = [(number, number - 1, "x") for number in range(1, 3000)]
    assert len(nodes(chain, {0: "base"})) >= 1000
    assert nodes([(1, 2, "a"), (2, 1, "b")], {}) == []


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return lambda path: client.get(path).content.decode()


def test_the_page_has_a_tab_of_each_with_counts(client, alice, make_model, make_trained):
    client.force_login(alice)
    base = make_model(name="The base", owner=alice)
    first = make_trained(base, name="First")
    make_trained(first, name="On it", version="3")

    def shown(query):
        context = client.get(f"/models/{query}").context
        counts = [count for _, _, count, _ in context["origins"]]
        return [model.title for model in context["page"]], counts

    assert shown("") == (["The base"], [1, 2])
    assert shown("?origin=trained") == (["First · v1", "On it · v3"], [1, 2])
    assert shown("?origin=trained&ordering=-name") == (["On it · v3", "First · v1"], [1, 2])
    # A search says in which tab it finds something.
    assert shown("?search=on it") == ([], [0, 1])
    assert shown("?origin=trained&search=on it") == (["On it · v3"], [0, 1])
    depths = [model.depth for model in client.get("/models/?origin=trained").context["page"]]
    assert depths == [0, 1]


@pytest.mark.parametrize("query", ["?origin=trained", "?origin=trained&ordering=name"])
def test_five_hundred_cost_as_many_queries_as_two(
    client, alice, make_model, make_trained, query, django_assert_max_num_queries
):
    client.force_login(alice)
    base = make_model(owner=alice)
    first = make_trained(base)
    template = BaseModel.objects.get(pk=first.pk)
    rows = []
    for number in range(500):
        parent = base.pk if number % 3 else first.pk
        rows.append(
            BaseModel(
                name=f"m{number}",
                slug=f"m{number}",
                source="train",
                status="ready",
                owner=alice,
                parent_id=parent,
                trained_from=template.trained_from,
            )
        )
    BaseModel.objects.bulk_create(rows)

    with django_assert_max_num_queries(13):
        answer = client.get(f"/models/{query}")
    assert len(answer.context["page"]) == 25
    assert answer.context["origins"][1][2] == 501


def test_a_hidden_base_is_not_named(client, bob, make_model, make_trained, alice):
    base = make_model(name="Secret base", owner=alice)
    first = make_trained(base, name="Shared", shared=True)
    make_trained(first, name="Secret child")
    client.force_login(bob)

    for path in (
        "/models/?origin=trained",
        "/models/?origin=trained&ordering=name",
        first.get_absolute_url(),
        f"/api/v1/models/{first.pk}/",
        f"/api/v1/models/{first.pk}/passport/",
    ):
        text = client.get(path).content.decode()
        assert "Shared" in text
        assert "secret" not in text.casefold(), path
        assert "4711" not in text, path

    BaseModel.objects.filter(pk=base.pk).update(shared=True, name="Open base")
    text = client.get(first.get_absolute_url()).content.decode()
    assert "Open base" in text
    assert client.get(f"/api/v1/models/{first.pk}/").json()["parent"] == {
        "id": base.pk,
        "slug": base.slug,
        "title": "Open base",
    }


def test_the_page_says_where_it_is_from(page, make_model, make_trained, alice):
    base = make_model(name="The base", owner=alice, licence="gemma")
    first = make_trained(base, name="First", licence="gemma")
    second = make_trained(first, name="Second")
    text = page(first.get_absolute_url())
    for words in (
        "Where it is from",
        "The base",
        "#4711 secret train, which was deleted",
        "LoRA, step 20",
        "secret data",
        "1.250",
        "at step 20",
        "cc0-1.0",
        "gemma",
        "Trained from this model",
        "Second · v1",
    ):
        assert words in text, words

    assert "First · v1" in page(second.get_absolute_url())
    text = page(base.get_absolute_url())
    assert "Where it is from" not in text
    assert "First · v1" in text


def test_a_passport_is_whole_for_its_owner(client, make_model, make_trained, alice):
    base = make_model(name="The base", owner=alice, licence="gemma")
    model = make_trained(base, name="First", version="2", licence="gemma", sha256="2" * 64)
    client.force_login(alice)
    passport = client.get(f"/api/v1/models/{model.slug}/passport/").json()
    assert passport["model"]["version"] == "2"
    assert passport["model"]["sha256"] == "2" * 64
    assert passport["licences"] == {"model": "gemma", "base_model": "gemma"}
    assert passport["train"]["name"] == "secret train"
    assert passport["datasets"]["training"]["title"] == "secret data"
    assert passport["parameters"]["lora_rank"] == 8

    answer = client.get(f"/models/{model.pk}/passport/")
    assert answer["Content-Disposition"] == f'attachment; filename="{model.slug}-passport.json"'
    assert answer.json() == passport


@pytest.mark.parametrize(
    ("base_shared", "parent_shared", "names"),
    [
        (True, True, {"base_model", "carried_on"}),
        (True, False, {"base_model"}),
        (False, True, {"carried_on"}),
    ],
)
def test_a_passport_names_what_was_carried_on_to_those_who_may_see_it(
    client, make_model, make_trained, alice, bob, base_shared, parent_shared, names
):
    """The weights are of the base model that the adapter belongs on, which is not the parent."""
    base = make_model(name="The base", owner=alice, shared=base_shared)
    first = make_trained(base, name="First", shared=parent_shared)
    second = make_trained(first, name="Second", shared=True)
    second.trained_from["continue_adapter"] = True
    second.save()
    path = second.path / "passport.json"
    stored = json.loads(path.read_text()) | {"carried_on": {"model": "First · v1"}}
    path.write_text(json.dumps(stored))

    client.force_login(bob)
    passport = client.get(f"/api/v1/models/{second.pk}/passport/").json()
    assert {"base_model", "carried_on"} & set(passport) == names


def test_a_damaged_passport_takes_no_page_with_it(client, make_model, make_trained, alice):
    model = make_trained(make_model(name="Tiny"), name="Mine")
    (model.path / "passport.json").write_text('{"files": {')
    client.force_login(alice)
    assert client.get(f"/models/{model.pk}/").status_code == 200
    answer = client.get(f"/api/v1/models/{model.pk}/passport/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_state")


def test_weights_that_are_gone_take_no_page_with_them(client, make_model, make_trained, alice):
    model = make_trained(make_model(name="Tiny"), name="Mine")
    for path in model.path.iterdir():
        path.unlink()
    client.force_login(alice)
    assert client.get(f"/models/{model.pk}/").status_code == 200
    assert client.get(f"/hub/api/models/deepextension/{model.slug}").status_code == 404


def test_the_next_version_counts_on_from_numbers_that_are_versions(make_model, make_trained, alice):
    base = make_model(name="Tiny")
    for version in ("3", "20261129", "9" * 20, "2.5"):
        make_trained(base, name="Mine", version=version)
    model = BaseModel(name="mine", owner=alice, source="train")
    with transaction.atomic():
        version_set(model)
    assert model.version == "20261130"


def test_a_model_from_before_gets_its_passport_when_somebody_asks(
    client, alice, home, tiny_folder, make_model
):
    model = make_model(
        owner=alice, source="folder", reference="/srv/private/tiny", licence="mit", revision=""
    )
    tiny_folder.rename(model.path.parent.mkdir(parents=True) or model.path)
    client.force_login(alice)
    passport = client.get(f"/api/v1/models/{model.pk}/passport/").json()
    assert passport["source"] == {
        "kind": "folder",
        "reference": "tiny",
        "revision": None,
        "licence": "mit",
    }
    weights = passport["files"]["model.safetensors"]
    assert weights["bytes"] == (model.path / "model.safetensors").stat().st_size
    assert len(weights["sha256"]) == 64


@pytest.mark.parametrize("status", ["importing", "failed", "ready"])
def test_without_files_there_is_no_passport(client, alice, make_model, status):
    model = make_model(owner=alice, status=status)
    client.force_login(alice)
    answer = client.get(f"/api/v1/models/{model.pk}/passport/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_state")
    assert client.get(f"/models/{model.pk}/passport/").status_code == 404
