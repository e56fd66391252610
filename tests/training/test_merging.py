"""Add to Models: who may, of what, under which name. That the model is right is held by
tests/engine and tests/e2e."""

import pytest
from django.core.exceptions import PermissionDenied

from core.errors import UserError
from engine.contract.rundir import CHECKPOINTS, MODEL, checkpoint_seal
from jobs.models import Job
from models_app.models import BaseModel
from models_app.services import model_archive, model_import_cancel, model_update
from training.train.merging import merge_obstacle, merge_steps, models_of, train_merge
from training.train.services import train_delete


@pytest.fixture
def finished(make_train):
    """A train that left a model and two checkpoints, one of them cut."""
    run = make_train(status="finished", name="Help desk")
    (run.directory / MODEL).mkdir(parents=True)
    for step in (10, 20):
        folder = run.directory / CHECKPOINTS / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        checkpoint_seal(folder)
    (run.directory / CHECKPOINTS / "checkpoint-20" / "adapter_model.safetensors").write_bytes(
        b"cut"
    )
    return run


def test_it_belongs_to_the_trains_owner_and_says_where_it_is_from(finished, alice):
    model = train_merge(run=finished, by=alice)
    assert (model.owner, model.name, model.status) == (
        alice,
        "Help desk",
        BaseModel.Status.IMPORTING,
    )
    assert model.trained_from == {
        "train": finished.pk,
        "name": "Help desk",
        "method": "LoRA",
        "step": 0,
        "precision": "auto",
        "base_model": {"id": finished.base_model_id, "name": "Tiny"},
        "continue_adapter": False,
        "datasets": {
            "training": {"id": finished.dataset_id, "title": "Toys", "licence": ""},
        },
    }
    assert list(models_of(finished, alice)) == [model]


def test_only_the_owner_and_operators_may(finished, bob):
    with pytest.raises(PermissionDenied):
        train_merge(run=finished, by=bob)


def test_the_same_model_is_made_once(finished, alice):
    first = train_merge(run=finished, by=alice)
    with pytest.raises(UserError, match="added already: Help desk") as refused:
        train_merge(run=finished, by=alice, name="Another name")
    assert refused.value.code == "duplicate"

    BaseModel.objects.filter(pk=first.pk).update(status=BaseModel.Status.FAILED)
    with pytest.raises(UserError, match="Try that one again"):
        train_merge(run=finished, by=alice)


def test_versions_count_up_under_a_name_of_one_owner(finished, alice, bob):
    made = [
        train_merge(run=finished, by=alice, **given)
        for given in (
            {},
            {"checkpoint": 10},
            {"precision": "fp32", "name": "HELP desk", "version": "v7.1"},
            {"precision": "bf16", "version": "9"},
            {"precision": "fp16"},
        )
    ]
    titles = [model.title for model in made]
    assert titles[:3] == ["Help desk · v1", "Help desk · v2", "HELP desk · v7.1"]
    assert titles[3:] == ["Help desk · v9", "Help desk · v10"]
    assert [model.slug for model in made[:3]] == ["help-desk-v1", "help-desk-v2", "help-desk-v7-1"]
    assert [model.parent_id for model in made] == [finished.base_model_id] * 5

    finished.owner = bob
    finished.save()
    assert train_merge(run=finished, by=bob).title == "Help desk · v1"


@pytest.mark.parametrize("archived", [False, True])
def test_a_name_and_version_that_exist_are_refused(finished, alice, archived):
    first = train_merge(run=finished, by=alice, name="Mine", version="beta")
    if archived:
        model_archive(model=first, by=alice)

    with pytest.raises(UserError) as refused:
        train_merge(run=finished, by=alice, name="mine", version="BETA", checkpoint=10)
    state = ", archived" if archived else ""
    words = f"You have Mine · beta already{state}. Choose another version."
    assert refused.value.fields == {"version": [words]}

    other = train_merge(run=finished, by=alice, name="Other", version="beta", checkpoint=10)
    with pytest.raises(UserError) as refused:
        model_update(model=other, by=alice, name="mine")
    assert set(refused.value.fields) == {"name"}
    assert model_update(model=other, by=alice, name="OTHER").title == "OTHER · beta"


@pytest.mark.parametrize("version", ["-1", "1 2", "ü", "1" * 21, "../2"])
def test_a_version_that_no_address_could_carry_is_refused(finished, alice, version):
    with pytest.raises(UserError) as refused:
        train_merge(run=finished, by=alice, version=version)
    assert set(refused.value.fields) == {"version"}
    assert not BaseModel.objects.filter(source="train").exists()


def test_an_archived_base_is_still_merged_into(finished, alice):
    BaseModel.objects.update(archived_at="2026-01-01T00:00Z")
    finished.refresh_from_db()
    assert finished.base_model.archived_at is not None
    assert train_merge(run=finished, by=alice).status == BaseModel.Status.IMPORTING


def test_it_is_a_job_of_its_own_kind(finished, alice):
    model = train_merge(run=finished, by=alice)
    job = Job.objects.get(kind="model-merge")
    assert (job.name, job.key) == ("Help desk · v1", f"model-merge-{model.pk}")
    assert job.kind != "model-import"
    model_import_cancel(model=model, by=alice)
    model.refresh_from_db()
    assert model.error == "The merge was cancelled."


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"checkpoint": 20}, "checkpoint"),
        ({"checkpoint": 30}, "checkpoint"),
        ({"precision": "int8"}, "precision"),
    ],
    ids=["cut", "unknown", "precision"],
)
def test_what_is_not_there_is_refused_by_its_field(finished, alice, given, field):
    assert merge_steps(finished) == [10]
    with pytest.raises(UserError) as refused:
        train_merge(run=finished, by=alice, **given)
    assert set(refused.value.fields) == {field}


@pytest.mark.parametrize(
    ("status", "recipe", "custom", "words"),
    [
        ("running", "sft", False, "has not ended"),
        ("finished", "reward", False, "scores answers"),
        ("failed", "sft", False, "left no model"),
        ("finished", "custom", True, "custom program"),
    ],
)
def test_why_no_model_can_be_made_is_said(make_train, alice, status, recipe, custom, words):
    run = make_train(status=status)
    run.method.recipe = recipe
    assert run.method.is_custom == custom
    assert words in merge_obstacle(run)
    with pytest.raises(UserError, match=words) as refused:
        train_merge(run=run, by=alice)
    assert refused.value.code == "wrong_state"


def test_a_failed_train_gives_its_checkpoint_alone(finished, alice):
    (finished.directory / MODEL).rmdir()
    assert merge_obstacle(finished) == ""
    with pytest.raises(UserError) as refused:
        train_merge(run=finished, by=alice)
    assert set(refused.value.fields) == {"checkpoint"}
    assert (
        train_merge(run=finished, by=alice, checkpoint=10).reference
        == f"train {finished.pk}, step 10"
    )


def test_the_page_offers_it_and_leads_to_the_model(client, finished, alice):
    client.force_login(alice)
    page = client.get(f"/trains/{finished.pk}/").content.decode()
    assert "Use this model" in page
    assert "Checkpoint of step 10" in page
    answer = client.post(
        f"/trains/{finished.pk}/merge/", {"name": "", "checkpoint": "", "precision": "auto"}
    )
    model = BaseModel.objects.get(source="train")
    assert answer.url == model.get_absolute_url()

    page = client.get(answer.url).content.decode()
    assert f"#{finished.pk} Help desk" in page
    assert "Help desk" in client.get("/models/?origin=trained").content.decode()
    assert model.name not in client.get("/models/?origin=base").content.decode()


def test_the_api_answers_with_the_model_and_refuses_strangers(client, finished, alice, bob):
    path = f"/api/v1/trains/{finished.pk}/merge/"
    client.force_login(bob)
    assert client.post(path, {}, content_type="application/json").status_code == 404
    client.force_login(alice)
    answer = client.post(path, {"name": "Mine", "checkpoint": 10}, content_type="application/json")
    assert (answer.status_code, answer.json()["model"]["status"]) == (202, "importing")
    assert answer.json()["model"]["trained_from"]["step"] == 10
    answer = client.post(path, {"checkpoint": 77}, content_type="application/json")
    assert (answer.status_code, set(answer.json()["error"]["fields"])) == (400, {"checkpoint"})


def test_readers_of_a_shared_model_are_not_told_of_its_train(client, finished, alice, bob):
    model = train_merge(run=finished, by=alice, name="For everyone")
    BaseModel.objects.filter(pk=model.pk).update(shared=True)
    client.force_login(bob)
    origin = client.get(f"/api/v1/models/{model.pk}/").json()["trained_from"]
    assert origin == {"method": "LoRA", "step": 0, "precision": "auto"}
    assert finished.name not in client.get(model.get_absolute_url()).content.decode()
    client.force_login(alice)
    assert client.get(f"/api/v1/models/{model.pk}/").json()["trained_from"]["train"] == finished.pk
    assert finished.name in client.get(model.get_absolute_url()).content.decode()


def test_a_train_stays_while_a_model_is_made_of_it(finished, alice):
    model = train_merge(run=finished, by=alice)
    with pytest.raises(UserError, match="model is being made"):
        train_delete(run=finished, by=alice)
    BaseModel.objects.filter(pk=model.pk).update(status=BaseModel.Status.READY)
    train_delete(run=finished, by=alice)
