"""Names of models, and what is refused everywhere below /v1."""

import pytest
from django.test import Client
from openai import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAI,
    PermissionDeniedError,
)
from openai.types import Model

from core.errors import UserError
from engine.contract.rundir import MODEL
from exports.models import Export
from models_app.models import BaseModel
from openai_api.errors import ApiProblem, problem_of
from openai_api.identifiers import model_missing, name_of, target_of
from serving.targets import Target
from training.models import TrainRun


@pytest.fixture
def trained(alice, tiny) -> BaseModel:
    return BaseModel.objects.create(
        owner=alice,
        name="Help desk",
        slug="help-desk",
        source="train",
        reference="",
        status="ready",
        parent=tiny,
        version="1",
        trained_from={"train": 1, "step": 0},
    )


@pytest.fixture
def run(alice, tiny) -> TrainRun:
    from datasets_app.models import Dataset
    from methods.models import TrainingMethod

    dataset = Dataset.objects.create(
        owner=alice, name="d", slug="d", file_name="d", file_type="jsonl", size_bytes=1, sha256="0"
    )
    return TrainRun.objects.create(
        owner=alice,
        name="Night: shift",
        method=TrainingMethod.objects.get(slug="lora"),
        base_model=tiny,
        dataset=dataset,
        parameters={},
        status="finished",
    )


def test_every_kind_of_model_has_a_name_that_finds_it(alice, bob, tiny, trained, run):
    export = Export.objects.create(model=trained, format="gguf")
    names = {
        Target("model", tiny.pk): "tiny",
        Target("model", trained.pk): f"ft:tiny:alice:help-desk:model-{trained.pk}",
        Target("train", run.pk): f"ft:tiny:alice:night-shift:train-{run.pk}",
        Target("train", run.pk, 20): f"ft:tiny:alice:night-shift:train-{run.pk}:ckpt-step-20",
        Target("export", export.pk): f"ft:tiny:alice:help-desk-gguf:export-{export.pk}",
    }
    for target, name in names.items():
        assert name_of(target) == name
        assert target_of(name, alice) == target
        if name != "tiny":
            with pytest.raises(ApiProblem) as refused:
                target_of(name, bob)
            assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    assert name_of(Target("train", 999)) == ""


def test_an_old_name_still_works_and_another_base_does_not(alice, run):
    assert target_of(f"ft:tiny:someone:renamed:train-{run.pk}", alice).pk == run.pk
    for wrong in (
        f"ft:other:alice:night-shift:train-{run.pk}",
        f"ft:tiny:alice:night-shift:train-{run.pk}:ckpt-step-x",
        f"ft:tiny:alice:night-shift:model-{run.pk + 99}:ckpt-step-2",
        f"train-{run.pk}",
        "",
        "x" * 1000,
        "tiny\x00",
    ):
        with pytest.raises(ApiProblem):
            target_of(wrong, alice)


def test_a_model_of_the_hub_is_found_by_its_id(openai: OpenAI, alice, tiny):
    BaseModel.objects.filter(pk=tiny.pk).update(source="hub", reference="some-org/Tiny-1@main")
    assert target_of("some-org/Tiny-1", alice).pk == tiny.pk
    # The client writes the stroke as %2F.
    assert openai.models.retrieve("some-org/Tiny-1").id == "tiny"


def test_models_are_listed_with_what_trains_have_left(openai: OpenAI, run):
    folder = run.directory / MODEL
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    models = openai.models.list().data
    for model in models:
        Model.model_validate(model.model_dump(), strict=True)
    names = [model.id for model in models]
    assert names[0] == "tiny"
    assert f"ft:tiny:alice:night-shift:train-{run.pk}" in names
    for name in names:
        assert openai.models.retrieve(name).id == name


def test_deleting_a_model_goes_by_the_rules_of_the_pages(openai: OpenAI, alice, trained, run):
    with pytest.raises(PermissionDeniedError):
        openai.models.delete("tiny")
    with pytest.raises(PermissionDeniedError):
        openai.models.delete(name_of(Target("train", run.pk, 5)))

    BaseModel.objects.create(name="x", slug="x", source="train", reference="", parent=trained)
    with pytest.raises(BadRequestError) as refused:
        openai.models.delete(name_of(Target("model", trained.pk)))
    assert refused.value.code == "in_use"

    name = name_of(Target("train", run.pk))
    deleted = openai.models.delete(name)
    assert (deleted.id, deleted.deleted) == (name, True)
    assert not TrainRun.objects.exists()
    with pytest.raises(NotFoundError):
        openai.models.delete(name)


def test_a_shared_model_of_somebody_else_is_not_deleted(client_of, bob, run):
    TrainRun.objects.update(shared=True)
    with pytest.raises(PermissionDeniedError):
        client_of(bob).models.delete(name_of(Target("train", run.pk)))
    assert TrainRun.objects.exists()


def test_who_asks_for_a_model_that_is_not_here_is_told_which_are(alice, tiny):
    problem = model_missing("gpt-4o", alice)
    assert "gpt-4o" in problem.message
    assert "tiny" in problem.message


# What all addresses share


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status"),
    [
        ("get", "/v1/nothing", "", "", 404),
        ("put", "/v1/files", "", "", 405),
        ("post", "/v1/uploads", "<x/>", "application/xml", 415),
        ("post", "/v1/uploads", "{", "application/json", 400),
        ("post", "/v1/uploads", "[]", "application/json", 400),
        ("post", "/v1/files", "{}", "application/json", 415),
        ("post", "/v1/fine_tuning/jobs", "x" * 3_000_000, "application/json", 413),
    ],
)
def test_every_refusal_is_in_openais_shape(alice, tiny, method, path, body, kind, status):
    client = Client()
    client.force_login(alice)
    answer = client.generic(method.upper(), path, body, content_type=kind or "text/plain")
    assert answer.status_code == status, answer.content
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if path != "/v1/nothing":
        assert answer["x-request-id"].startswith("req_")
        assert answer["openai-version"]
        assert int(answer["openai-processing-ms"]) >= 0


def test_without_a_key_or_with_a_wrong_one_nothing_is_said(openai: OpenAI, tiny):
    with pytest.raises(AuthenticationError, match="Incorrect API key") as refused:
        openai.with_options(api_key="sk-wrong-wrong-wrong-wrong").models.list()
    assert refused.value.code == "invalid_api_key"
    answer = Client().get("/v1/models")
    assert answer.status_code == 401
    assert "API key" in answer.json()["error"]["message"]


def test_a_key_that_may_only_read_creates_nothing(client_of, alice, tiny):
    reader = client_of(alice, "read")
    assert reader.models.list().data
    with pytest.raises(PermissionDeniedError, match="scope") as refused:
        reader.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert refused.value.code == "token_scope"


def test_what_a_state_forbids_is_not_tried_again_by_clients():
    """They try a 409 again, and a 503 for as long as it says."""
    problem = problem_of(UserError("Busy.", code="wrong_state", status=409))
    assert (problem.status, problem.code) == (400, "wrong_state")
    assert problem_of(UserError("No disk.", status=507)).status == 507
